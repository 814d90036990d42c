{ lib, pkgs, ... }:
{
  options.services.osmoda.x402.package = lib.mkOption {
    type = lib.types.package;
    default = pkgs.callPackage ../package.nix { };
    defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
    description = "The osmoda-x402 that is run, and that checks the configuration files when they are built.";
  };
}
