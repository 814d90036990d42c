{
  description = "Outbound payer for the x402 protocol: any program that honours HTTPS_PROXY can use paid APIs";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      forEachSystem = nixpkgs.lib.genAttrs [
        "aarch64-linux"
        "x86_64-linux"
      ];
    in
    {
      packages = forEachSystem (system: {
        default = nixpkgs.legacyPackages.${system}.callPackage ./nix/package.nix { };
      });

      nixosModules.default = import ./nix/module.nix;

      # Needs a machine with KVM.
      checks = forEachSystem (system: {
        vm = nixpkgs.legacyPackages.${system}.callPackage ./nix/vm-test.nix { };
      });
    };
}
