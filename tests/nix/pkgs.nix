# Stands in for the parts of nixpkgs that the module uses. The derivations are real ones, built without a sandbox by
# the shell of this machine, so that what the module checks at build time is checked here too.
{ lib }:
let
  inherit (builtins) attrNames concatStringsSep isAttrs isList isString map match toFile toJSON;

  runCommand =
    name: _: script:
    derivation {
      inherit name;
      system = builtins.currentSystem;
      builder = "/bin/sh";
      args = [ "-euc" script ];
      PATH = "/usr/bin:/bin";
    };

  key = name: if match "[A-Za-z0-9_-]+" name != null then name else toJSON name;
  # A value on one line: a JSON string is a TOML string.
  toml =
    value:
    if isAttrs value then
      "{ ${concatStringsSep ", " (map (name: "${key name} = ${toml value.${name}}") (attrNames value))} }"
    else if isList value then
      "[${concatStringsSep ", " (map toml value)}]"
    else
      toJSON value;
in
{
  inherit runCommand;
  formats.toml =
    { }:
    {
      generate =
        name: value:
        toFile name (lib.concatStrings (lib.mapAttrsToList (k: v: "${key k} = ${toml v}\n") value));
    };
  nftables = { outPath = "/usr"; };
  callPackage = _: _: { outPath = "/nowhere"; }; # the tests name a package of their own
}
