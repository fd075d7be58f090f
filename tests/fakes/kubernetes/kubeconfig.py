"""kubectl's configuration for an imitated cluster."""

import yaml


def kubeconfig(server: str, **context: str) -> str:
    """Returns the text of a configuration for a server; `context` adds to the context, such as its namespace."""
    described = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"} | context}],
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {}}],
    }
    return yaml.safe_dump(described)
