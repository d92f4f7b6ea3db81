"""Lets the Linux wheel of torch from PyPI import without the CUDA libraries (several GB) that its CPU half never calls.

    python stub_cuda.py            # once, after `pip install --no-deps torch==2.11.0`; needs gcc and nm

torch's Python module links to libtorch_cuda.so, and that to cuBLAS, cuDNN, NCCL and others, which the loader must find
although nothing here runs on a GPU. This writes stand-ins beside torch's own libraries: each defines the symbols
that torch imports from it, and every one of them traps if it is ever called. Never do this to an environment that
shall use a GPU. With the real libraries installed (`pip install torch==2.11.0`), this step is not needed.
"""

import importlib.util
import pathlib
import subprocess
import sys
import tempfile

# soname -> (prefixes of its unversioned symbols)
LIBRARIES = {
    "libcublas.so.13": (),
    "libcublasLt.so.13": (),
    "libcudnn.so.9": (),
    "libcufft.so.12": (),
    "libcusparse.so.12": (),
    "libcusolver.so.12": (),
    "libcurand.so.10": ("curand",),
    "libcufile.so.0": ("cuFile",),
    "libcusparseLt.so.0": ("cusparseLt",),
    "libnccl.so.2": ("nccl", "pnccl"),
    "libnvshmem_host.so.3": ("nvshmem",),
}
VERSION_OF = {"NVSHMEM": "libnvshmem_host.so.3"}
USERS = ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libtorch_python.so")


def imports(library):
    """(symbol, version or None) of every undefined function of `library`."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True)
    for line in listing.stdout.splitlines():
        kind, name = line.split()
        if kind == "U":
            symbol, _, version = name.partition("@")
            yield symbol, version.lstrip("@") or None


def main():
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("torch is not installed here: pip install --no-deps torch==2.11.0")
    folder = pathlib.Path(spec.submodule_search_locations[0]) / "lib"
    wanted = {soname: {} for soname in LIBRARIES}  # soname -> version or None -> symbols
    for user in USERS:
        for symbol, version in imports(folder / user):
            for soname, prefixes in LIBRARIES.items():
                if VERSION_OF.get(version, version) == soname or (version is None and symbol.startswith(prefixes)):
                    wanted[soname].setdefault(version, set()).add(symbol)
    for soname, versions in wanted.items():
        if (folder / soname).exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            source, script = pathlib.Path(scratch, "stub.c"), pathlib.Path(scratch, "stub.map")
            names = sorted(name for group in versions.values() for name in group)
            source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
            script.write_text("".join(
                f"{version} {{ global: {' '.join(f'{name};' for name in sorted(group))} }};\n"
                for version, group in versions.items() if version is not None))
            command = ["gcc", "-shared", "-fPIC", "-w", source, "-o", folder / soname, f"-Wl,-soname,{soname}"]
            if script.stat().st_size:
                command.append(f"-Wl,--version-script={script}")
            subprocess.run(command, check=True)
            print(f"{soname}: {len(names)} symbols")


if __name__ == "__main__":
    main()
