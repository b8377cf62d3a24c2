"""Lists the packages of a repository whose root is the package `folkmoot` itself (see docs/adr/0001)."""

from setuptools import find_packages, setup

NOT_SHIPPED = ("tests", "tests.*", "build", "build.*", "docs", "docs.*")

setup(
    packages=["folkmoot", *(f"folkmoot.{name}" for name in find_packages(".", exclude=NOT_SHIPPED))],
    package_dir={"folkmoot": "."},
    package_data={"folkmoot": ["py.typed"]},
)
