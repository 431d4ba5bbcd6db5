"""What `latentrt serve` costs and stands: throughput, latency among others, overhead, overload, a soak."""
