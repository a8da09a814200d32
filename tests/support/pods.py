"""Runs the pods of an overlay on a container engine: what a kubelet does of it, for want of a cluster.

Kept: users and groups, read-only roots, capabilities, limits, commands, environment, mounts and their owners,
containers that prepare, hooks, restarts until it works, graceful ends. Left out: scheduling, the addresses of Services,
network policies, sizes of volumes. Names of Services are names on a network of the engine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.manifests import Object, of_kind, pods, selects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.support.manifests import Pod

DNS: Final = "svc.cluster.local"
# The engine's name server, at the same address in every container.
_RESOLVER: Final = "127.0.0.11"


def docker(*arguments: object, check: bool = True) -> str:
    """What a command of the engine printed."""
    done = subprocess.run(
        [shutil.which("docker") or "docker", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"docker {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout.strip()


def _succeeds(*arguments: object) -> bool:
    command = [shutil.which("docker") or "docker", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def has_images(names: Iterable[str]) -> bool:
    """Whether there is an engine that need not ask a registry for these."""
    return shutil.which("docker") is not None and all(_succeeds("image", "inspect", name) for name in names)


@dataclass
class Node:
    """A machine with one overlay's pods on it."""

    overlay: str
    folder: Path
    prefix: str
    image: Callable[[str], str]  # of a name in the manifests
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def up(self) -> None:
        """Start every pod at once, as a cluster does; whoever comes too early tries again."""
        docker("network", "create", self.prefix)
        for pod in pods(self.overlay):
            thread = threading.Thread(target=self._run, args=(pod,), name=pod.workload, daemon=True)
            thread.start()
            self._threads.append(thread)

    def down(self) -> None:
        """Remove everything of it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        names = docker("ps", "-aq", "--filter", f"name=^{self.prefix}-").split()
        if names:
            docker("rm", "-f", "-v", *names)
        docker("network", "rm", self.prefix, check=False)

    def container(self, workload: str) -> str:
        """The name of a workload's container."""
        return f"{self.prefix}-{workload}"

    def state(self, workload: str) -> dict[str, Any]:
        """What the engine knows of a workload's container; nothing before it is there."""
        text = docker("inspect", "--format", "{{json .State}}", self.container(workload), check=False)
        state: dict[str, Any] = json.loads(text) if text else {}
        return state

    def answers(self, pod: Pod, probe: str) -> str:
        """What is wrong by a probe; nothing when all is well."""
        (container,) = pod.spec["containers"]
        wanted = container[probe]
        name = self.container(pod.workload)
        if not self.state(pod.workload).get("Running"):
            return "does not run"
        if "exec" in wanted:
            return "" if _succeeds("exec", name, *wanted["exec"]["command"]) else "the command fails"
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        target = wanted.get("httpGet") or wanted["tcpSocket"]
        return self._ask(pod.workload, ports[target["port"]], target.get("path", ""))

    def _ask(self, workload: str, port: int, path: str) -> str:
        code = (
            "import sys,socket,urllib.request as u\n"
            "host,port,path=sys.argv[1],int(sys.argv[2]),sys.argv[3]\n"
            "try:\n"
            "  print(u.urlopen(f'http://{host}:{port}{path}',timeout=5).status) if path else "
            "socket.create_connection((host,port),5) and print('open')\n"
            "except Exception as e: print(e)\n"
        )
        said = docker("exec", self.container("gateway"), "python", "-c", code, workload, port, path, check=False)
        return "" if said in {"200", "open"} else said or "nobody to ask"

    def _run(self, pod: Pod) -> None:
        volumes = Volumes(self, pod)
        for container in pod.spec.get("initContainers", []):
            while not self._stopping.is_set() and self._once(pod, container, volumes):
                time.sleep(1)
        (container,) = pod.spec["containers"]
        if pod.kind == "Job":
            while not self._stopping.is_set() and self._once(pod, container, volumes):
                time.sleep(1)
            return
        if self._stopping.is_set():
            return
        docker("run", "-d", "--restart", "always", *self._arguments(pod, container, volumes, pod.workload))
        hook = container.get("lifecycle", {}).get("postStart")
        if hook is not None:
            docker("exec", self.container(pod.workload), *hook["exec"]["command"])

    def _once(self, pod: Pod, container: Object, volumes: Volumes) -> bool:
        """Run a container to its end; whether it must run again."""
        name = f"{pod.workload}.{container['name']}"
        docker("rm", "-f", self.container(name), check=False)
        docker("run", "-d", *self._arguments(pod, container, volumes, name))
        return docker("wait", self.container(name)) != "0"

    def _arguments(self, pod: Pod, container: Object, volumes: Volumes, name: str) -> list[object]:
        context = {**pod.spec["securityContext"], **container["securityContext"]}
        limits = container["resources"]["limits"]
        arguments: list[object] = [
            *("--name", self.container(name), "--network", self.prefix, "--hostname", f"{pod.workload}-0"),
            *("--user", f"{context['runAsUser']}:{context['runAsGroup']}", "--security-opt", "no-new-privileges"),
            *("--memory", limits["memory"].replace("i", "").lower(), "--stop-timeout", self.grace(pod)),
            # Where a cluster's own name server would be.
            *("--add-host", f"kube-dns.kube-system.{DNS}:{_RESOLVER}"),
        ]
        arguments += ["--group-add", context["fsGroup"]] if "fsGroup" in context else []
        arguments += ["--read-only"] if context["readOnlyRootFilesystem"] else []
        arguments += [word for each in context["capabilities"]["drop"] for word in ("--cap-drop", each)]
        arguments += ["--cpus", limits["cpu"]] if "cpu" in limits else []
        arguments += [f"--sysctl={each['name']}={each['value']}" for each in context.get("sysctls", [])]
        if name == pod.workload:
            arguments += [word for alias in self._names(pod) for word in ("--network-alias", alias)]
            arguments += ["--publish", "127.0.0.1::8080"] if pod.name == "nginx" else []
        arguments += [f"--env={key}={value}" for key, value in self.environment(pod, container).items()]
        arguments += volumes.arguments(container)
        return [*arguments, *self._command(pod, container)]

    def grace(self, pod: Pod) -> int:
        """How long a pod gets to end."""
        return int(pod.spec.get("terminationGracePeriodSeconds", 30))

    def _names(self, pod: Pod) -> Iterable[str]:
        yield pod.workload
        for service in of_kind(self.overlay, "Service"):
            name = service["metadata"]["name"]
            if selects({"matchLabels": service["spec"]["selector"]}, pod.labels):
                yield from (name, f"{name}.atelier.{DNS}")

    def environment(self, pod: Pod, container: Object) -> dict[str, str]:
        """The variables as the container sees them."""
        maps = {each["metadata"]["name"]: each["data"] for each in of_kind(self.overlay, "ConfigMap")}
        found = {}
        for name, entry in pod.variables(container).items():
            source = entry.get("valueFrom", {})
            if "configMapKeyRef" in source:
                found[name] = maps[source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
            elif "fieldRef" in source:
                found[name] = f"{pod.workload}-0"
            else:
                found[name] = entry["value"]
        return found

    def _command(self, pod: Pod, container: Object) -> list[object]:
        variables = self.environment(pod, container)

        def filled(word: str) -> str:
            return re.sub(r"\$\(([A-Z_]+)\)", lambda match: variables.get(match[1], match[0]), word)

        command = [filled(word) for word in container.get("command", [])]
        arguments = [filled(word) for word in container.get("args", [])]
        start: list[object] = ["--entrypoint", command[0]] if command else []
        return [*start, self.image(container["image"]), *command[1:], *arguments]


class Volumes:
    """A pod's volumes as folders, with the owners and modes that a kubelet gives them."""

    def __init__(self, node: Node, pod: Pod) -> None:
        self._node = node
        self._group = int(pod.spec["securityContext"].get("fsGroup", 0))
        self._own = node.folder / "pods" / pod.workload
        self._folders = {volume["name"]: self._made(volume) for volume in pod.spec["volumes"]}
        for claim in self._claims(pod):
            self._folders[claim] = self._writable(node.folder / "claims" / f"{pod.workload}-{claim}")

    def arguments(self, container: Object) -> list[object]:
        """The mounts of a container."""
        mounts = []
        for mount in container["volumeMounts"]:
            folder: Path = self._folders[mount["name"]]
            source = folder / mount.get("subPath", "")
            mounts.append(f"--volume={source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
        return list(mounts)

    def _claims(self, pod: Pod) -> list[str]:
        if pod.kind != "StatefulSet":
            return []
        (found,) = [
            each for each in of_kind(self._node.overlay, "StatefulSet") if each["metadata"]["name"] == pod.workload
        ]
        return [each["metadata"]["name"] for each in found["spec"].get("volumeClaimTemplates", [])]

    def _made(self, volume: Object) -> Path:
        if "persistentVolumeClaim" in volume:
            claim: str = volume["persistentVolumeClaim"]["claimName"]
            return self._writable(self._node.folder / "claims" / claim)
        folder: Path = self._own / volume["name"]
        if "emptyDir" in volume:
            return self._writable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for name, content in self._contents(volume).items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(volume.get("secret", {}).get("defaultMode", 0o644))
            os.chown(folder / name, 0, self._group)
        return folder

    def _contents(self, volume: Object) -> dict[str, bytes]:
        kind, wanted = ("Secret", volume["secret"]["secretName"]) if "secret" in volume else ("ConfigMap", "")
        wanted = wanted or volume["configMap"]["name"]
        (found,) = [each for each in of_kind(self._node.overlay, kind) if each["metadata"]["name"] == wanted]
        if kind == "ConfigMap":
            return {name: text.encode() for name, text in found["data"].items()}
        return {item["path"]: base64.b64decode(found["data"][item["key"]]) for item in volume["secret"]["items"]}

    def _writable(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, 0, self._group)
        folder.chmod(0o2777 if self._group else 0o777)
        return folder
