# Option types and short forms that the daemons' options share.
# Types find mistakes while the system is evaluated; what they cannot see, the check of the built file does.
{ lib }:
let
  inherit (lib) mkOption types;
  # Absolute, without `//`, `.` and `..`, which would hide where it leads, and without what unit files give a meaning to.
  path = "(/\\.?[A-Za-z0-9_@+-][A-Za-z0-9._@+:-]*)+";
in
rec {
  option =
    type: default: description:
    mkOption { inherit type default description; };
  required = type: description: mkOption { inherit type description; };
  # null leaves the key out of the file.
  optional = type: option (types.nullOr type) null;

  # "1.00". Never a number: 0.1 is no exact float.
  usd = types.strMatching "[0-9]{1,12}(\\.[0-9]{1,6})?";
  factor = types.strMatching "[0-9]{1,4}(\\.[0-9]{1,3})?";
  label = types.strMatching "[a-z0-9][a-z0-9._-]{0,62}";
  callerName = types.strMatching "[a-z0-9][a-z0-9._-]{0,31}";
  fencedUser = types.strMatching "uid:[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]{0,63}";
  network = types.strMatching "eip155:[1-9][0-9]{0,18}";
  address = types.strMatching "0x[0-9a-fA-F]{40}";
  sha256 = types.strMatching "[0-9a-f]{64}";
  # A string, never a Nix path: Nix copies a path into the store, where every user reads it.
  secretPath = types.strMatching path;
  socket = types.strMatching "/run${path}";
}
