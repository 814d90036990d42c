"""Flake, package and VM test: what of them can be seen without nixpkgs."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.nix.nix import ROOT, Nix, NixError

pytestmark = pytest.mark.real

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# A function or set of nixpkgs that hands back what it was given.
ECHO = """rec {
  lib = (import ./tests/nix/lib.nix) // {
    fileset = { toSource = x: map toString x.fileset; unions = x: x; };
    licenses.asl20 = "asl20";
    platforms.linux = [ ];
  };
  python3Packages = builtins.listToAttrs (map (n: { name = n; value = n; }) NAMES) // {
    buildPythonApplication = x: x;
  };
  package = import ./nix/package.nix { inherit lib python3Packages; };
  vm = import ./nix/vm-test.nix {
    lib.fileset.toSource = _: "/demo";
    python3.withPackages = _: "/python";
    testers.runNixOSTest = x: x;
    writeText = name: text: "/${name}";
  };
  machine = vm.nodes.machine { pkgs.curl = { outPath = "/curl"; }; };
}"""


def files() -> list[Path]:
    return [ROOT / "flake.nix", *(ROOT / "nix").rglob("*.nix"), *(ROOT / "tests/nix").glob("*.nix")]


def with_echo(nix: Nix, expression: str) -> Any:
    names = " ".join(f'"{name}"' for name in [*dependencies(), "setuptools"])
    return nix.value(f"with {ECHO.replace('NAMES', f'[ {names} ]')}; {expression}")


def dependencies() -> list[str]:
    """Their names, as pyproject.toml writes them; nixpkgs has the same."""
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["bridge"]]
    return [re.split(r"[^A-Za-z0-9-]", text)[0] for text in wanted]


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_nix_file_parses(nix: Nix, file: Path) -> None:
    nix.parse(file)


def test_what_is_no_nix_does_not_parse(nix: Nix, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nix"
    broken.write_text("{ a = 1 }")
    with pytest.raises(NixError):
        nix.parse(broken)


def test_the_package_is_that_of_pyproject(nix: Nix) -> None:
    package = with_echo(nix, "package")
    assert (package["pname"], package["version"]) == (
        PROJECT["project"]["name"],
        PROJECT["project"]["version"],
    )
    assert package["dependencies"] == sorted(dependencies())
    assert package["meta"]["description"] == PROJECT["project"]["description"].removesuffix(".")
    assert package["meta"]["mainProgram"] in PROJECT["project"]["scripts"]


def test_the_package_has_every_room(nix: Nix) -> None:
    package = with_echo(nix, "package")
    rooms = {
        pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert set(package["pythonImportsCheck"]) == rooms
    source = {Path(path).relative_to(ROOT).name for path in package["src"]}
    assert source == rooms | {"LICENSE", "README.md", "pyproject.toml"}


NIXPKGS = """{
  outputs = _: rec {
    lib.genAttrs = names: f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) names);
    legacyPackages = lib.genAttrs [ "aarch64-linux" "x86_64-linux" ] (system: {
      callPackage = file: _: derivation { name = baseNameOf file; inherit system; builder = "/bin/sh"; };
    });
  };
}"""


def test_the_flake_offers_package_module_and_vm_test(nix: Nix, tmp_path: Path) -> None:
    flake, nixpkgs = tmp_path / "flake", tmp_path / "nixpkgs"
    shutil.copytree(ROOT / "nix", flake / "nix")
    shutil.copy(ROOT / "flake.nix", flake)
    nixpkgs.mkdir()
    (nixpkgs / "flake.nix").write_text(NIXPKGS)
    shown = nix.flake(flake, nixpkgs)
    for system in ("aarch64-linux", "x86_64-linux"):
        assert shown["packages"][system]["default"]["name"] == "package.nix"
        assert shown["checks"][system]["vm"]["name"] == "vm-test.nix"
    assert shown["nixosModules"]["default"] == {"type": "nixos-module"}


def test_the_vm_test_configures_what_the_module_accepts(nix: Nix) -> None:
    settings = with_echo(nix, "machine.services.osmoda")
    assert settings["keyd"]["x402"]["enable"]
    assert settings["egress"]["x402"]["enable"]
    machine = f"{{ services.osmoda = builtins.fromJSON ''{json.dumps(settings)}''; }}"
    assert nix.module("failed", machine) == []
    nix.build("keyd.toml", machine)
    nix.build("egress.toml", machine)
