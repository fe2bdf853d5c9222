"""A Bazel test that runs the tests of a module with pytest."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_test(name, srcs, deps = [], data = [], **kwargs):
    """Defines a test target; it fails if pytest finds no test.

    Args:
      name: Name of the target.
      srcs: The test module, alone in a list.
      deps: Libraries that it imports.
      data: Files that it reads, and programs that it runs.
      **kwargs: Others of `py_test`.
    """
    py_test(
        name = name,
        srcs = srcs + ["tests/conftest.py", "tests/run_pytest.py"],
        main = "tests/run_pytest.py",
        args = ["$(location {})".format(srcs[0])],
        data = data + ["pyproject.toml"],
        deps = deps,
        **kwargs
    )
