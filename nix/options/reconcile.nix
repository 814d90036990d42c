# reconcile.toml as options. docs/reconcile.md says the same at more length.
{ lib, ... }:
let
  inherit (lib) types;
  t = import ../types.nix { inherit lib; };
  inherit (t) option optional required;

  network = types.submodule {
    options = {
      network = required t.network "CAIP-2 id, as in keyd's networks.";
      rpc = required (types.nonEmptyListOf types.str)
        "URLs of JSON-RPC servers of this network, without keys: the file is in the Nix store.";
      agree = optional types.ints.positive "How many of them have to say the same before keyd is told. null: all.";
      block = option (types.enum [ "finalized" "safe" "latest" ]) "finalized"
        "The block at which the state is read. Anything but `finalized` can still be undone by the chain.";
      logRange = option (types.ints.between 1 100000) 2000 "Blocks in one `eth_getLogs` at the most.";
      timeoutSeconds = option (types.numbers.between 0 120) 10.0 "Longest wait for one answer.";
      allowHttp = option types.bool false
        "Allow `http://` to other hosts than loopback: whoever is on the way can then forge every answer.";
    };
  };
  hook = what: {
    command = option (types.listOf types.str) [ ]
      "Program and arguments; it gets ${what} as JSON on its standard input. No shell.";
    url = optional types.str "Gets ${what} as a POST. Without a secret: the file is in the Nix store.";
    timeoutSeconds = option (types.numbers.between 0 60) 10.0 "Longest wait for either.";
  };
in
{
  options.services.osmoda.reconcile.x402 = {
    enable = lib.mkEnableOption "osmoda-reconcile, which asks the chain what became of payments and tells keyd";

    keydSocket = option types.str "/run/osmoda/keyd.sock" "keyd's Unix socket.";
    networks = option (types.listOf network) [ ] "Where to ask, if no URL is secret. Otherwise use configFile.";
    configFile = optional t.secretPath ''
      A whole reconcile.toml outside the Nix store, if its URLs contain keys. It may belong to root with mode 0400:
      systemd hands it to the unit as a credential.
    '';

    alerts = hook "the alerts";
    heads = hook "the newest signed head of the ledger";

    settings = option (types.attrsOf types.anything) { } ''
      Merged into reconcile.toml as it is, for keys that have no option here. A key that has one is refused.
    '';
  };
}
