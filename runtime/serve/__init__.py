"""Pictures over HTTP: a service owns a pipeline, and routes speak the words of several clients. Extra `[serve]`."""
