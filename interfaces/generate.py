"""Builds the Python interfaces of ROS message packages inside a pip build: no CMake, no ROS installation.

The real rosidl generators write the C and Python code. A ROS installation puts each type support into a library of its
own and finds it at run time; here all code of a package goes into one extension module,
`<package>_s__rosidl_typesupport_c`, and `DISPATCH` finds the type supports inside it. The libraries of ROS are found
relative to site-packages, in the environment's own `lib` folder.
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

USES = ("std_msgs", "builtin_interfaces", "geometry_msgs")  # message packages whose types appear in our messages
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")  # Fast DDS asks for both

DISPATCH = """\
// The type support of {package}/msg/{name}: picks one of those that are linked in.
#include <string.h>

#include "rcutils/error_handling.h"
#include "rosidl_runtime_c/message_type_support_struct.h"
#include "rosidl_typesupport_interface/macros.h"
#include "{package}/msg/detail/{stem}__functions.h"

#define SUPPORT(kind) ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(kind, {package}, msg, {name})

const rosidl_message_type_support_t * SUPPORT(rosidl_typesupport_fastrtps_c)(void);
const rosidl_message_type_support_t * SUPPORT(rosidl_typesupport_introspection_c)(void);

static const rosidl_message_type_support_t * find(const rosidl_message_type_support_t * handle, const char * identifier)
{{
  if (strcmp(identifier, handle->typesupport_identifier) == 0) {{
    return handle;
  }}
  if (strcmp(identifier, "rosidl_typesupport_fastrtps_c") == 0) {{
    return SUPPORT(rosidl_typesupport_fastrtps_c)();
  }}
  if (strcmp(identifier, "rosidl_typesupport_introspection_c") == 0) {{
    return SUPPORT(rosidl_typesupport_introspection_c)();
  }}
  RCUTILS_SET_ERROR_MSG_WITH_FORMAT_STRING("{package}/msg/{name} has no type support %s", identifier);
  return NULL;
}}

static const rosidl_message_type_support_t type_support = {{
  "rosidl_typesupport_c",
  NULL,
  find,
  {package}__msg__{name}__get_type_hash,
  {package}__msg__{name}__get_type_description,
  {package}__msg__{name}__get_type_description_sources,
}};

const rosidl_message_type_support_t * SUPPORT(rosidl_typesupport_c)(void)
{{
  return &type_support;
}}
"""


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


def generate(package: MessagePackage, root: Path) -> tuple[list[Path], list[Path]]:
    """Writes the C and Python code of a package's messages.

    Args:
        package: what to generate.
        root: folder to write to, absolute.

    Returns:
        The C and C++ files to compile, and the folders with generated headers. The Python modules are in
        `root/c/<package>/msg`.
    """
    prefix = ros_prefix()
    os.environ["AMENT_PREFIX_PATH"] = str(prefix)  # the generators find their templates by it

    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_pycommon import convert_camel_case_to_lower_case_underscore as snake_case
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    # The introspection code has a folder of its own: two generators write a file `<message>__type_support.c`.
    out, introspection = root / "c" / package.name, root / "introspection" / package.name
    for folder in (out, introspection):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "msg").mkdir(parents=True)
    for message in package.messages():
        convert_msg_to_idl(package.folder.resolve(), package.name, message, out / message.parent)
    idl = [f"{out}:{message.with_suffix('.idl').as_posix()}" for message in package.messages()]
    include = [str(prefix / "share" / used) for used in USES]
    hashes = HashTypeDescription("type_description").generate_type_hashes(package.name, idl, include, out)
    GenerateC("c").generate(package.name, idl, include, out, hashes)
    GenerateFastRTPSCTypesupport("fastrtps_c").generate(package.name, idl, include, out)
    GenerateIntrospectionCTypesupport("introspection_c").generate(package.name, idl, include, introspection)
    GeneratePython("py", typesupport_implementations=["rosidl_typesupport_c"]).generate(package.name, idl, include, out)
    for message in package.messages():
        stem = snake_case(message.stem)
        code = DISPATCH.format(package=package.name, name=message.stem, stem=stem)
        (out / "msg" / f"{stem}__dispatch.c").write_text(code)
    sources = [path for folder in (out, introspection) for path in folder.rglob("*") if path.suffix in (".c", ".cpp")]
    return sorted(sources), [out.parent, introspection.parent]


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
        root = Path(self.build_temp).resolve() / "interfaces"
        for package, extension in zip(self.packages, self.extensions, strict=True):
            with contextlib.redirect_stdout(io.StringIO()):  # the generators name every file they read and write
                sources, headers = generate(package, root)
            self._describe(extension, package.name, sources, headers)
            target = Path(self.build_lib) / package.name / "msg"
            target.mkdir(parents=True, exist_ok=True)
            for module in (root / "c" / package.name / "msg").glob("*.py"):
                shutil.copy(module, target / module.name)
        super().run()
        if self.editable_mode:
            self.run_command("install_data")  # share/ and lib/sdt_ros, which setuptools forgets in editable installs

    def _describe(self, extension: Extension, name: str, sources: list[Path], headers: list[Path]) -> None:
        import numpy

        prefix = ros_prefix()
        extension.sources = [str(source) for source in sources]
        extension.language = "c++"
        extension.define_macros = [("ROS_PACKAGE_NAME", f'"{name}"'), ("FASTCDR_DYN_LINK", None)]
        extension.include_dirs = [*map(str, headers), numpy.get_include(), str(prefix / "include")]
        extension.include_dirs += [str(path) for path in sorted((prefix / "include").iterdir()) if path.is_dir()]
        # <prefix>/lib, when linking and as seen from <prefix>/lib/pythonX.Y/site-packages/<package>
        vars(extension).update(library_dirs=[str(prefix / "lib")], runtime_library_dirs=["$ORIGIN/../../.."])
        kinds = ("rosidl_generator_c", "rosidl_generator_py", *TYPE_SUPPORTS)
        extension.libraries = [f"{used}__{kind}" for used in USES for kind in kinds]
        extension.libraries += [*TYPE_SUPPORTS, "rosidl_typesupport_fastrtps_cpp", "fastcdr"]
        extension.libraries += ["rosidl_runtime_c", "rcutils"]
        extension.extra_compile_args = ["-O2", "-g0"]
