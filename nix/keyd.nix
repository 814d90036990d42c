{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (config.services.osmoda.x402) package;
  cfg = config.services.osmoda.keyd.x402;
  file = import ./config-file.nix { inherit lib pkgs; };
  shipped = import ./unit.nix { inherit lib; } package;
  option = "services.osmoda.keyd.x402";

  service = shipped ../systemd/osmoda-keyd.service;
  socket = shipped ../systemd/osmoda-keyd.socket;

  policy = removeAttrs cfg [
    "assets"
    "kekCredential"
    "peers"
    "settings"
    "socket"
  ];
  written = {
    inherit (cfg) peers socket;
    socket_mode = null; # SocketMode= of the unit
    state_dir = "/var/lib/osmoda-keyd"; # StateDirectory=
    kek_file = null; # the credential `kek`
    x402 = file.keys policy // {
      budgets = map file.keys cfg.budgets;
      prepay = map file.keys cfg.prepay;
      limits = file.keys cfg.limits;
    };
    assets = map file.keys cfg.assets;
  };
  toml = file.checked "keyd.toml" "${package}/bin/keyctl check-config" written cfg.settings;
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      (file.namesNothingTwice option written cfg.settings)
      (file.outsideStore "${option}.kekCredential.path" cfg.kekCredential.path)
    ];

    environment.etc."osmoda/keyd.toml".source = toml;
    environment.systemPackages = [ package ];

    systemd.services.osmoda-keyd = service // {
      restartTriggers = [ toml ];
      serviceConfig = removeAttrs service.serviceConfig [ "LoadCredentialEncrypted" ] // {
        ${if cfg.kekCredential.encrypted then "LoadCredentialEncrypted" else "LoadCredential"} =
          "kek:${cfg.kekCredential.path}";
        SetCredential = "kek:missing-nixos"; # keyd's hint: there is no osmoda-setup here
      };
    };
    systemd.sockets.osmoda-keyd = socket // {
      socketConfig = socket.socketConfig // {
        ListenStream = cfg.socket;
      };
    };

    users.users.osmoda-keyd = {
      isSystemUser = true;
      group = "osmoda-keyd";
    };
    users.groups.osmoda-keyd = { };
    users.groups.osmoda = { }; # who may connect to the socket
    users.groups.osmoda-admin = { };
    users.groups.osmoda-agent = { };
  };
}
