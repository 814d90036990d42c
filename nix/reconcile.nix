{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (config.services.osmoda.x402) package;
  cfg = config.services.osmoda.reconcile.x402;
  file = import ./config-file.nix { inherit lib pkgs; };
  shipped = import ./unit.nix { inherit lib; } package;
  option = "services.osmoda.reconcile.x402";

  service = shipped ../systemd/osmoda-reconcile.service;

  written = {
    keyd_socket = cfg.keydSocket;
    state_dir = "/var/lib/osmoda-reconcile"; # StateDirectory= of the unit
    alerts = file.keys cfg.alerts;
    heads = file.keys cfg.heads;
    networks = map file.keys cfg.networks;
  };
  toml = file.checked "reconcile.toml" "${package}/bin/osmoda-reconcile --check --config" written cfg.settings;
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      (file.namesNothingTwice option written cfg.settings)
      (file.meetsKeyd "${option}.keydSocket" cfg.keydSocket config.services.osmoda.keyd.x402)
      (file.outsideStore "${option}.configFile" cfg.configFile)
      {
        assertion = (cfg.networks == [ ]) != (cfg.configFile == null);
        message = "${option}: set either networks or configFile, and not both.";
      }
      {
        assertion = cfg.configFile != null -> cfg.settings == { };
        message = "${option}: settings would be ignored beside configFile; write them into that file.";
      }
    ];

    environment.etc = lib.mkIf (cfg.configFile == null) { "osmoda/reconcile.toml".source = toml; };

    systemd.services.osmoda-reconcile = service // {
      serviceConfig =
        service.serviceConfig
        // lib.optionalAttrs (cfg.configFile != null) {
          LoadCredential = "reconcile.toml:${cfg.configFile}";
          ExecStart = "${package}/bin/osmoda-reconcile --config %d/reconcile.toml";
        };
    };
    systemd.timers.osmoda-reconcile = shipped ../systemd/osmoda-reconcile.timer;

    users.users.osmoda-reconcile = {
      isSystemUser = true;
      group = "osmoda-reconcile";
      extraGroups = [ "osmoda" ];
    };
    users.groups.osmoda-reconcile = { };
    users.groups.osmoda = { };
  };
}
