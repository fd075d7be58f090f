"""The launcher: runs trainer.task as processes of this machine, as a Kubernetes Job or as a Vertex AI custom job."""
