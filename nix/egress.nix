{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (config.services.osmoda.x402) package;
  cfg = config.services.osmoda.egress.x402;
  file = import ./config-file.nix { inherit lib pkgs; };
  option = "services.osmoda.egress.x402";

  unit = "osmoda-egress.service";
  credential = cfg.upstreamProxyCredentialFile;
  shipped = import ./unit.nix { inherit lib; } package;
  service = shipped ../systemd/osmoda-egress.service;

  written =
    file.keys (removeAttrs cfg [
      "callers"
      "enable"
      "flatDialect"
      "maxRetries"
      "settings"
      "upstreamProxyCredentialFile"
    ])
    // {
      upstream_proxy_credential_file = if credential == null then null else "/run/credentials/${unit}/upstream-proxy";
      state_dir = "/var/lib/osmoda-egress"; # StateDirectory= of the unit
      callers = map file.keys cfg.callers;
      x402 = file.keys { inherit (cfg) enable flatDialect maxRetries; };
    };
  toml = file.checked "egress.toml" "${package}/bin/osmoda-egress --check --config" written cfg.settings;
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      (file.namesNothingTwice option written cfg.settings)
      (file.outsideStore "${option}.upstreamProxyCredentialFile" credential)
      (file.meetsKeyd "${option}.keydSocket" cfg.keydSocket config.services.osmoda.keyd.x402)
    ];

    environment.etc."osmoda/egress.toml".source = toml;

    systemd.services = {
      osmoda-egress = service // {
        restartTriggers = [ toml ];
        serviceConfig =
          service.serviceConfig
          // {
            # Time for the streams under way, and 15 s for what comes after them.
            TimeoutStopSec = "${toString (builtins.ceil cfg.drainSeconds + 15)}s";
          }
          // lib.optionalAttrs (credential != null) { LoadCredential = "upstream-proxy:${credential}"; }
          # Process ids and units of callers are looked for in /proc.
          // lib.optionalAttrs (cfg.identify == "process") { ProtectProc = "default"; };
      };
    }
    // lib.optionalAttrs (cfg.fence != [ ]) {
      osmoda-fence = shipped ../systemd/osmoda-fence.service // {
        path = [ pkgs.nftables ];
        restartTriggers = [ toml ];
      };
    };

    users.users.osmoda-egress = {
      isSystemUser = true;
      group = "osmoda-egress";
      extraGroups = [ "osmoda" ];
    };
    users.groups.osmoda-egress = { };
    users.groups.osmoda = { };
  };
}
