# osmoda-x402 from Python packages of nixpkgs: `pkgs.callPackage ./package.nix { }`.
# The versions that pyproject.toml asks for are checked when it is built. mitmproxy's is exact, and must stay so: the paid
# repeat of a request subclasses private parts of it. A nixpkgs with another one fails here, not while it pays.
{ lib, python3Packages }:
python3Packages.buildPythonApplication {
  pname = "osmoda-x402";
  inherit ((fromTOML (builtins.readFile ../pyproject.toml)).project) version;
  pyproject = true;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../README.md
      ../bridge
      ../egress
      ../keyd
      ../ledger
      ../pyproject.toml
      ../reconcile
    ];
  };

  build-system = [ python3Packages.setuptools ];
  dependencies = with python3Packages; [
    aiohttp
    click
    coincurve
    cryptography
    eth-account
    h11
    mcp
    mitmproxy
    prometheus-client
    pycryptodome
    pydantic
    pydantic-settings
    structlog
    tomli-w
  ];

  pythonImportsCheck = [
    "bridge"
    "egress"
    "keyd"
    "ledger"
    "reconcile"
  ];

  meta = {
    description = "Outbound payer for the x402 protocol: any program that honours HTTPS_PROXY can use paid APIs";
    license = lib.licenses.asl20;
    mainProgram = "osmoda-keyctl"; # keyutils has a keyctl too
    platforms = lib.platforms.linux;
  };
}
