# The module in a system that is only options: what it makes of `settings`, for the tests to look at.
# `package` is a folder with bin/keyctl and the daemons.
{
  settings ? { },
  package ? "/usr",
}:
let
  lib = import ./lib.nix;
  inherit (lib) mkOption types;
  pkgs = import ./pkgs.nix { inherit lib; };

  listOf = t: mkOption { type = types.listOf t; default = [ ]; };
  setOf = t: mkOption { type = types.attrsOf t; default = { }; };
  str = mkOption { type = types.str; default = ""; };
  # In NixOS more types are allowed here; these are all that the module needs.
  section = setOf (types.either types.str (types.listOf types.str));
  unit = options: setOf (types.submodule {
    options = {
      description = str;
      unitConfig = section;
      after = listOf types.str;
      before = listOf types.str;
      bindsTo = listOf types.str;
      conflicts = listOf types.str;
      documentation = listOf types.str;
      partOf = listOf types.str;
      requires = listOf types.str;
      requiredBy = listOf types.str;
      wantedBy = listOf types.str;
      wants = listOf types.str;
    } // options;
  });

  system.options = {
    assertions = listOf types.anything;
    environment.etc = setOf (types.submodule { options.source = mkOption { type = types.anything; }; });
    environment.systemPackages = listOf types.package;
    systemd.services = unit { path = listOf types.package; serviceConfig = section; restartTriggers = listOf types.package; };
    systemd.sockets = unit { socketConfig = section; };
    systemd.timers = unit { timerConfig = section; };
    users.groups = setOf (types.submodule { options = { }; });
    users.users = setOf (types.submodule {
      options = {
        isSystemUser = mkOption { type = types.bool; default = false; };
        group = str;
        extraGroups = listOf types.str;
      };
    });
  };

  evaluated = lib.evalModules {
    args = { inherit pkgs; };
    modules = [
      system
      ../../nix/module.nix
      { services.osmoda.x402.package = { outPath = package; }; }
      settings
    ];
  };
  inherit (evaluated) config;

  # As nixos/lib/systemd-lib.nix writes them; without what NixOS adds to every unit (PATH, locale, time zone).
  lines = set: lib.concatStrings (lib.mapAttrsToList (key: value: lib.concatMapStrings (v: "${key}=${v}\n") (lib.toList value)) set);
  joined = key: words: lib.optionalAttrs (words != [ ]) { ${key} = lib.concatStringsSep " " words; };
  head = u: lines (
    u.unitConfig
    // lib.optionalAttrs (u.description != "") { Description = u.description; }
    // joined "After" u.after
    // joined "Before" u.before
    // joined "BindsTo" u.bindsTo
    // joined "Conflicts" u.conflicts
    // joined "Documentation" u.documentation
    // joined "PartOf" u.partOf
    // joined "Requires" u.requires
    // joined "Wants" u.wants
  );
  install = u: lines (joined "WantedBy" u.wantedBy // joined "RequiredBy" u.requiredBy);
  render = suffix: title: body: units:
    lib.mapAttrs' (name: u: lib.nameValuePair "${name}.${suffix}" ''
      [Unit]
      ${head u}
      [${title}]
      ${lines (body u)}
      [Install]
      ${install u}
    '') units;
in
rec {
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  units =
    render "service" "Service" (u: u.serviceConfig) config.systemd.services
    // render "socket" "Socket" (u: u.socketConfig) config.systemd.sockets
    // render "timer" "Timer" (u: u.timerConfig) config.systemd.timers;
  restartTriggers = lib.mapAttrs (_: u: u.restartTriggers) config.systemd.services;
  paths = lib.mapAttrs (_: u: map toString u.path) config.systemd.services;
  files = lib.mapAttrs' (name: f: lib.nameValuePair (builtins.replaceStrings [ "osmoda/" ] [ "" ] name) f.source) config.environment.etc;
  users = config.users.users;
  packages = map toString config.environment.systemPackages;
  groups = lib.attrNames config.users.groups;
  options = lib.optionList "services" evaluated.options.services;
  # Whatever is wrong with `settings`, evaluating this finds it.
  system = { inherit failed files groups units users; };
}
