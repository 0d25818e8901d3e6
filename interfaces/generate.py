"""Builds the Python interfaces of ROS message packages inside a pip build: no CMake, no ROS installation.

The real rosidl generators write the C and Python code; with Fast DDS as the one type support nothing is dispatched at
run time, so all C code of a package goes into one extension module, `<package>_s__rosidl_typesupport_c`.
The libraries of ROS are found at run time relative to site-packages, in the environment's own `lib` folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

USES = ("std_msgs", "builtin_interfaces")  # message packages whose types appear in our messages


@dataclass(frozen=True)
class MessagePackage:
    """A ROS package whose `.msg` files are built.

    Attributes:
        name: the ROS package, and the Python package that gets `<name>.msg`.
        folder: where its `msg/` folder lies.
    """

    name: str
    folder: Path

    def extension(self) -> Extension:
        """Returns the extension module; its sources are generated when it is built."""
        return Extension(f"{self.name}.{self.name}_s__rosidl_typesupport_c", sources=[])

    def messages(self) -> list[Path]:
        """Returns the `.msg` files relative to the folder."""
        return sorted(path.relative_to(self.folder) for path in (self.folder / "msg").glob("*.msg"))


def ros_prefix() -> Path:
    """Returns the prefix into which the ROS wheels of this environment were installed."""
    import ament_index_python

    return Path(ament_index_python.__file__).resolve().parents[4]


def generate(package: MessagePackage, out: Path) -> list[Path]:
    """Writes the C and Python code of a package's messages.

    Args:
        package: what to generate.
        out: folder to write to; its last part must be the package's name, because the code includes itself by it.

    Returns:
        The C and C++ files to compile.
    """
    prefix = ros_prefix()
    os.environ["AMENT_PREFIX_PATH"] = str(prefix)  # the generators find their templates by it

    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    out.mkdir(parents=True, exist_ok=True)
    for message in package.messages():
        convert_msg_to_idl(package.folder.resolve(), package.name, message, out / message.parent)
    idl = [f"{out}:{message.with_suffix('.idl').as_posix()}" for message in package.messages()]
    include = [str(prefix / "share" / used) for used in USES]
    hashes = HashTypeDescription("type_description").generate_type_hashes(package.name, idl, include, out)
    GenerateC("c").generate(package.name, idl, include, out, hashes)
    GenerateFastRTPSCTypesupport("fastrtps_c").generate(package.name, idl, include, out)
    GenerateCTypesupport("c", typesupport_implementations=["rosidl_typesupport_fastrtps_c"]).generate(
        package.name, idl, include, out
    )
    GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]).generate(package.name, idl, include, out)
    return sorted(path for path in out.rglob("*") if path.suffix in (".c", ".cpp"))


class BuildInterfaces(build_ext):
    """setuptools' `build_ext` for extensions whose sources the rosidl generators write.

    An editable install gets the built interfaces too: they go into site-packages, not into the source tree, and
    `sdt_ros/__init__.py` joins the two folders.
    """

    packages: list[MessagePackage] = []

    def finalize_options(self) -> None:
        """Sends what is built to site-packages, in an editable install as well."""
        super().finalize_options()
        if self.editable_mode:
            self.inplace = False
            self.build_lib = self.get_finalized_command("install").install_lib
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        """Generates, compiles, and puts the generated Python modules beside the extensions."""
        for package, extension in zip(self.packages, self.extensions, strict=True):
            out = Path(self.build_temp).resolve() / "interfaces" / package.name
            shutil.rmtree(out, ignore_errors=True)
            with contextlib.redirect_stdout(io.StringIO()):  # the generators name every file they read and write
                sources = generate(package, out)
            self._fill(extension, package, sources, out)
            target = Path(self.build_lib) / package.name
            for module in (out / "msg").glob("*.py"):
                (target / "msg").mkdir(parents=True, exist_ok=True)
                shutil.copy(module, target / "msg" / module.name)
        super().run()

    def _fill(self, extension: Extension, package: MessagePackage, sources: list[Path], out: Path) -> None:
        import numpy

        prefix = ros_prefix()
        extension.sources = [str(source) for source in sources]
        extension.language = "c++"
        extension.define_macros = [("ROS_PACKAGE_NAME", f'"{package.name}"'), ("FASTCDR_DYN_LINK", None)]
        extension.include_dirs = [str(out.parent), numpy.get_include(), str(prefix / "include")]
        extension.include_dirs += [str(path) for path in sorted((prefix / "include").iterdir()) if path.is_dir()]
        extension.library_dirs = [str(prefix / "lib")]
        # <prefix>/lib, seen from <prefix>/lib/pythonX.Y/site-packages/<package>
        extension.runtime_library_dirs = ["$ORIGIN/../../.."]
        extension.libraries = [
            f"{used}__{kind}"
            for used in USES
            for kind in ("rosidl_generator_c", "rosidl_generator_py", "rosidl_typesupport_fastrtps_c")
        ]
        extension.libraries += ["rosidl_typesupport_fastrtps_c", "rosidl_typesupport_fastrtps_cpp", "fastcdr"]
        extension.libraries += ["rosidl_runtime_c", "rcutils"]
        extension.extra_compile_args = ["-O2", "-g0"]
