"""What runs on the user's desk: turns the description of a job into processes, a Kubernetes Job or a Vertex AI custom job."""
