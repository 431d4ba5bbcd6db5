"""Bundle -> compiled engines. Imports numpy and one backend library at a time; no other folder of latentrt."""
