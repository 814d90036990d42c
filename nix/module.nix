# NixOS module of osmoda-x402: `services.osmoda.{keyd,egress,reconcile}.x402`. docs/nixos.md explains it.
#
# options/   what can be set
# keyd.nix, egress.nix, reconcile.nix   what follows from it: configuration file, unit, user
# ../systemd the units themselves; unit.nix reads them, so that NixOS and other systems run the same ones
{
  imports = [
    ./options/common.nix
    ./options/keyd.nix
    ./options/egress.nix
    ./options/reconcile.nix
    ./keyd.nix
    ./egress.nix
    ./reconcile.nix
  ];
}
