"""What a schema cannot tell of rendered Kubernetes manifests: that what they name is there.

    kubectl kustomize DIR | scripts/check-manifests.py
"""

import sys

import yaml


def main() -> int:
    objects = [item for item in yaml.safe_load_all(sys.stdin) if item]
    by_kind = {}
    for item in objects:
        by_kind.setdefault(item["kind"], {})[item["metadata"]["name"]] = item
    pods = {
        f"{kind} {name}": item["spec"]["template"]
        for kind in ("Deployment", "Job")
        for name, item in by_kind.get(kind, {}).items()
    }
    faults = []

    def selects(owner, labels):
        """The pods of that selector; none is a fault."""
        chosen = [
            pod for pod in pods.values() if labels.items() <= pod["metadata"]["labels"].items()
        ]
        if not chosen:
            faults.append(f"{owner}: nothing has the labels {labels}")
        return chosen

    def port_names(pod):
        return {
            port["name"]
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        }

    def environment(deployment):
        """The names of the variables of its containers."""
        names = set()
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            names |= {variable["name"] for variable in container.get("env", [])}
            for source in container.get("envFrom", []):
                config = by_kind.get("ConfigMap", {}).get(source["configMapRef"]["name"], {})
                names |= set(config.get("data", {}))
        return names

    for name, item in by_kind.get("Deployment", {}).items():
        selects(f"Deployment {name}", item["spec"]["selector"]["matchLabels"])
    for name, item in by_kind.get("PodDisruptionBudget", {}).items():
        selects(f"PodDisruptionBudget {name}", item["spec"]["selector"]["matchLabels"])
    for name, item in by_kind.get("NetworkPolicy", {}).items():
        selects(f"NetworkPolicy {name}", item["spec"]["podSelector"]["matchLabels"])
    for name, item in by_kind.get("Service", {}).items():
        for pod in selects(f"Service {name}", item["spec"]["selector"]):
            for port in item["spec"]["ports"]:
                if port["targetPort"] not in port_names(pod):
                    faults.append(f"Service {name}: no port {port['targetPort']}")
    for name, item in by_kind.get("ScaledObject", {}).items():
        target = item["spec"]["scaleTargetRef"]["name"]
        deployment = by_kind.get("Deployment", {}).get(target)
        if deployment is None:
            faults.append(f"ScaledObject {name}: no Deployment {target}")
        elif "replicas" in deployment["spec"]:
            faults.append(f"ScaledObject {name}: Deployment {target} says replicas too")
        variables = environment(deployment) if deployment else set()
        for trigger in item["spec"]["triggers"]:
            asked = {
                value for key, value in trigger["metadata"].items() if key.endswith("FromEnv")
            }
            reference = trigger.get("authenticationRef")
            if reference:
                authentication = by_kind.get("TriggerAuthentication", {}).get(reference["name"])
                if authentication is None:
                    faults.append(
                        f"ScaledObject {name}: no TriggerAuthentication {reference['name']}"
                    )
                else:
                    asked |= {one["name"] for one in authentication["spec"].get("env", [])}
            for variable in sorted(asked - variables):
                faults.append(f"ScaledObject {name}: {target} has no variable {variable}")
    spaces = {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"}
    if len(spaces) > 1:
        faults.append(f"more than one namespace: {spaces}")
    for space in by_kind.get("Namespace", {}):
        if spaces != {space}:
            faults.append(f"Namespace {space}: what is in it is in {spaces}")
    for owner, pod in pods.items():
        account = pod["spec"].get("serviceAccountName")
        if account and account not in by_kind.get("ServiceAccount", {}):
            faults.append(f"{owner}: no ServiceAccount {account}")
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in pod["spec"]["containers"]:
            for source in container.get("envFrom", []):
                config = source["configMapRef"]["name"]
                if config not in by_kind.get("ConfigMap", {}):
                    faults.append(f"{owner}: no ConfigMap {config}")
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    faults.append(f"{owner}: no volume {mount['name']}")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in port_names(pod):
                    faults.append(f"{owner}: {probe} asks no port {port}")
            security = container["securityContext"]
            if not security["readOnlyRootFilesystem"] or security["allowPrivilegeEscalation"]:
                faults.append(f"{owner}: may write or gain rights")
        if not pod["spec"]["securityContext"]["runAsNonRoot"]:
            faults.append(f"{owner}: may run as root")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
