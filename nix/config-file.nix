# From options to a TOML file that its own daemon has checked.
{ lib, pkgs }:
let
  inherit (lib) concatMap filterAttrs isAttrs isList mapAttrs mapAttrs' nameValuePair;
  inherit (builtins) attrNames concatStringsSep map replaceStrings;

  upper = lib.stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  lower = lib.stringToCharacters "abcdefghijklmnopqrstuvwxyz";
  # dailyBudgetUsd → daily_budget_usd
  snake = replaceStrings upper (map (letter: "_" + letter) lower);

  withoutNulls =
    value:
    if isList value then
      map withoutNulls value
    else if isAttrs value then
      mapAttrs (_: withoutNulls) (filterAttrs (_: v: v != null) value)
    else
      value;

  # Tables of keys. All other tables are values: the names in `pay_to` are domains.
  isTable = key: builtins.elem key [ "alerts" "heads" "limits" "peers" "x402" ];

  # Dotted names of the keys that both have.
  overlap =
    prefix: named: extra:
    concatMap (
      key:
      if !(named ? ${key}) then
        [ ]
      else if isTable key && isAttrs extra.${key} then
        overlap (prefix ++ [ key ]) named.${key} extra.${key}
      else
        [ (concatStringsSep "." (prefix ++ [ key ])) ]
    ) (attrNames extra);
in
{
  # Options as keys of the file. Only for attributes whose names are options, not data.
  keys = mapAttrs' (name: nameValuePair (snake name));

  # An assertion: `settings` of `option` names no key that the module writes itself.
  namesNothingTwice =
    option: written: settings:
    let
      twice = overlap [ ] written settings;
    in
    {
      assertion = twice == [ ];
      message = ''
        ${option}.settings sets ${concatStringsSep ", " twice}, which the module writes from an option or from its unit.
        Use the option: a limit that is written in two places is one that nobody knows.
      '';
    };

  # An assertion: the secret at `path`, a value of `option`, is not in the store.
  outsideStore =
    option: path:
    {
      assertion = path == null || !(lib.hasPrefix "${builtins.storeDir}/" path);
      message = ''
        ${option} is ${toString path}, in the Nix store, which every user of the machine can read.
        Name a file outside of it, as a string.
      '';
    };

  # An assertion: `socket`, a value of `option`, is that of `keyd`, if that runs here.
  meetsKeyd =
    option: socket: keyd:
    {
      assertion = keyd.enable -> socket == keyd.socket;
      message = ''
        ${option} is ${socket}, but keyd listens on ${keyd.socket}: nobody would answer.
        Give services.osmoda.keyd.x402.socket the same value.
      '';
    };

  # The file, built only if `check`, a shell command that gets the file's path as last argument, accepts it.
  checked =
    name: check: written: settings:
    let
      file = (pkgs.formats.toml { }).generate name (withoutNulls (lib.recursiveUpdate written settings));
    in
    pkgs.runCommand name { } ''
      ${check} ${file}
      cp ${file} $out
    '';
}
