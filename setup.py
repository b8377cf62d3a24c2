"""Lists the packages of a repository whose root is the package `folkmoot` itself, and builds the native kernels.

The kernels are optional: where there is no C compiler, the install goes on and torch computes.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup

NOT_SHIPPED = ("tests", "tests.*", "build", "build.*", "docs", "docs.*")
NATIVE = Extension(
    "folkmoot.kernels._native",
    sources=sorted(map(str, Path("kernels/native").glob("*.c"))),
    depends=sorted(map(str, Path("kernels/native").glob("*.h"))),
    include_dirs=["kernels/native"],
    # No function here sets errno or traps, which is all that the last two say; with them the compiler vectorizes.
    extra_compile_args=[
        "-O3",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-fno-trapping-math",
    ],
    libraries=["pthread"],
    optional=True,
)

setup(
    packages=["folkmoot", *(f"folkmoot.{name}" for name in find_packages(".", exclude=NOT_SHIPPED))],
    package_dir={"folkmoot": "."},
    package_data={"folkmoot": ["py.typed"]},
    ext_modules=[NATIVE],
)
