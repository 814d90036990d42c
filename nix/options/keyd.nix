# keyd.toml as options: `dailyBudgetUsd` is `daily_budget_usd`. docs/config-keyd.md says the same at more length.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  t = import ../types.nix { inherit lib; };
  inherit (t) option optional required;
  services = config.services.osmoda;

  budget = types.submodule {
    options = {
      domain = optional types.str "Exactly one domain, as the ledger names it. null: every domain.";
      caller = optional types.str "As the ledger names it: `uid:1000` or `proxy:NAME`. null: every caller.";
      dailyUsd = required t.usd "What may be spent in a UTC day.";
    };
  };

  asset = types.submodule {
    options = {
      network = required t.network "CAIP-2 id of an EVM network.";
      address = required t.address "The token's contract.";
      symbol = required types.str "For people: policy and ledger show it.";
      decimals = required (types.ints.between 0 36) "Decimal places of one whole token.";
      eip712Name = required types.str "`name` of the contract's EIP-712 domain.";
      eip712Version = required types.str "`version` of the contract's EIP-712 domain.";
      usdValue = required t.usd "What one whole token counts for in budgets.";
    };
  };

  prepay = types.submodule {
    options = {
      domain = required types.str "Exactly one domain, as the ledger names it.";
      methods = option (types.listOf (types.strMatching "[A-Z]{1,20}")) [ "GET" "HEAD" ] "Only these methods.";
      after = option (types.ints.between 1 1000) 3
        "How many 402s in a row must have asked for the same terms, for the same URL.";
    };
  };

  limits = {
    dailyBudgetUsd = optional t.usd "The highest daily budget that `keyctl x402 budget` may set.";
    maxPaymentUsd = optional t.usd "The highest cap that `keyctl x402 cap` may set.";
    paymentsPerMinute = optional (types.ints.between 0 1000000) "The highest rate that an override may set.";
    allowedDomains = optional (types.listOf types.str)
      "The only entries that may be allowed in all, those of the base included.";
  };

  who = types.listOf (types.either types.str types.int); # user names, uids, "@group"
  peers = {
    egress = mkOption {
      type = who;
      default = lib.optional services.egress.x402.enable "osmoda-egress";
      defaultText = lib.literalExpression ''[ "osmoda-egress" ], if egress is enabled here'';
      description = "Asks for payments and reports their outcomes.";
    };
    admin = option who [ "root" "@osmoda-admin" ] "Changes policy, approves, imports wallets, reads the ledger.";
    agent = option who [ "@osmoda-agent" ]
      "Sees policy and spending, tightens and freezes; anything wider becomes a proposal.";
    reconciler = mkOption {
      type = who;
      default = lib.optional services.reconcile.x402.enable "osmoda-reconcile";
      defaultText = lib.literalExpression ''[ "osmoda-reconcile" ], if the reconciler is enabled here'';
      description = "Brings proof from the chain, the only thing that gives budget back.";
    };
  };
in
{
  options.services.osmoda.keyd.x402 = {
    enable = lib.mkEnableOption "osmoda-keyd, which holds the wallet and decides about x402 payments";

    enforce = option types.bool true "false: overrides are tried out; the ledger says what they would have refused.";
    defaultWalletLabel = option t.label "default" "The wallet that pays.";
    dailyBudgetUsd = option t.usd "1.00"
      "What may be spent in a UTC day, by all together. A string: money is never a float.";
    dailyBudgetPerDomainUsd = optional t.usd "What each domain may be paid in a day. null: no such limit.";
    dailyBudgetPerCallerUsd = optional t.usd "What each caller may spend in a day. null: no such limit.";
    dailyBudgetPerCallerAndDomainUsd = optional t.usd
      "What each caller may spend at each domain in a day. null: no such limit.";
    maxPaymentUsd = option t.usd "0.10" "What a single payment may cost.";
    paymentsPerMinute = optional (types.ints.between 0 1000000)
      "Payments signed in 60 seconds, by all together. null: no such limit.";
    allowedDomains = option (types.listOf types.str) [ ] ''
      Who may be paid: `api.example.com`, `*.example.com` (not itself), `http://host:port`, or `*` for every https
      host. Nothing listed: nothing is paid.
    '';
    deniedDomains = option (types.listOf types.str) [ ] "Who is never paid, whatever allowedDomains says.";
    callers = option (types.listOf types.str) [ "*" ]
      "Who may pay: user names, `uid:1000`, `@group`, `proxy:NAME`, or `*` for everyone whom egress can identify.";
    sessionRequired = option (types.listOf types.str) [ ]
      "Who pays inside of a session only (`keyctl x402 run --label`), written like `callers`.";
    networks = option (types.listOf t.network) [ "eip155:8453" ] "Networks to pay on, as CAIP-2 ids.";
    allowedAssets = optional (types.listOf types.str)
      "The only tokens to pay in, like `USDC` or `USDC@eip155:8453`. null: every known one of these networks.";
    pin = option types.bool true "Hold a payment whose recipient, token or price is not that of the first one.";
    pinPriceFactor = option t.factor "2.00"
      "How far the price of a method and path may rise above the first one before it is held.";
    approveAboveUsd = optional t.usd "A payment above this waits for `keyctl x402 approve`. null: none does.";
    approveFirstSeen = option types.bool false "true: the first payment to a host waits for `keyctl x402 approve`.";
    quarantineAfter = option types.ints.unsigned 10
      "Payments in a row without delivery or receipt, after which a host is not paid any more. 0: never.";
    proofSources = option (types.ints.between 1 100) 1
      "RPC servers that must agree before an unused authorization gives budget back.";
    budgets = option (types.listOf budget) [ ] "Budgets of single domains and callers.";
    prepay = option (types.listOf prepay) [ ] "Where requests may be paid before the server asks.";
    payTo = option (types.attrsOf (types.listOf t.address)) { } "Domain to the only recipients that it may name.";
    inherit limits;

    socket = option t.socket "/run/osmoda/keyd.sock" "Unix socket that keyd listens on.";
    inherit peers;
    assets = option (types.listOf asset) [ ] "Tokens beyond the built-in table, or corrections of its rows.";

    kekCredential = {
      path = option t.secretPath "/etc/osmoda/kek.cred" ''
        The key-encryption key, made on the machine itself: docs/nixos.md has the command. Never in the Nix store,
        which every user can read.
      '';
      encrypted = option types.bool true ''
        true: made by `systemd-creds encrypt` (LoadCredentialEncrypted=). false: 32 bytes, raw or as hex digits, from a
        tool that decrypts secrets into /run (LoadCredential=).
      '';
    };

    settings = option (types.attrsOf types.anything) { } ''
      Merged into keyd.toml as it is, for keys that have no option here. A key that has one is refused, so that no budget
      is written in two places.
    '';
  };
}
