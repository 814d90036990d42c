"""The one registry of reason codes: why something was refused, and what to do about it.

keyd, egress, the ledger, keyctl and the documentation quote the same code from here.
`docs/reasons.md` is generated from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a code means, and the way out."""

    summary: str
    remedy: str


class Reason(StrEnum):
    """A stable code. Codes are added, never renamed: logs and ledgers quote them."""

    # keyd: the whole request
    CALLER_UNKNOWN = "caller_unknown"
    CALLER_NOT_ALLOWED = "caller_not_allowed"
    SIGNIN_NOT_ALLOWED = "signin_not_allowed"
    SIGNIN_NEVER_PAID = "signin_never_paid"
    SIGNIN_UNSUITABLE = "signin_unsuitable"
    SESSION_INVALID = "session_invalid"
    SESSION_REQUIRED = "session_required"
    X402_DISABLED = "x402_disabled"
    DOMAIN_NOT_ALLOWED = "domain_not_allowed"
    DOMAIN_DENIED = "domain_denied"
    FROZEN = "frozen"
    HOST_QUARANTINED = "host_quarantined"
    COOL_DOWN = "cool_down"
    INTENT_OPEN_TERMS_CHANGED = "intent_open_terms_changed"
    INTENT_UNRESOLVED = "intent_unresolved"
    BUDGET_DAILY = "budget_daily"
    BUDGET_DOMAIN = "budget_domain"
    BUDGET_CALLER = "budget_caller"
    BUDGET_CALLER_DOMAIN = "budget_caller_domain"
    BUDGET_SESSION = "budget_session"
    RATE_LIMIT = "rate_limit"
    PIN_PAY_TO = "pin_pay_to"
    PIN_ASSET = "pin_asset"
    PIN_PRICE = "pin_price"
    APPROVAL_REQUIRED = "approval_required"
    WALLET_MISSING = "wallet_missing"
    WALLET_UNREADABLE = "wallet_unreadable"
    WALLET_ARCHIVED = "wallet_archived"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    # keyd: one offer
    OFFER_MALFORMED = "offer_malformed"
    SCHEME_UNSUPPORTED = "scheme_unsupported"
    NETWORK_UNKNOWN = "network_unknown"
    NETWORK_NOT_ALLOWED = "network_not_allowed"
    ASSET_UNKNOWN = "asset_unknown"
    ASSET_NOT_ALLOWED = "asset_not_allowed"
    ASSET_MISMATCH = "asset_mismatch"
    TRANSFER_METHOD_UNSUPPORTED = "transfer_method_unsupported"
    PAYMENT_FLOW_UNSUPPORTED = "payment_flow_unsupported"
    AMOUNT_INVALID = "amount_invalid"
    PAY_TO_INVALID = "pay_to_invalid"
    PAY_TO_NOT_ALLOWED = "pay_to_not_allowed"
    TIMEOUT_INVALID = "timeout_invalid"
    APP_LIMIT = "app_limit"
    APP_LIMIT_MALFORMED = "app_limit_malformed"
    CAP_PER_PAYMENT = "cap_per_payment"
    PREPAY_NOT_ALLOWED = "prepay_not_allowed"
    # keyd: who asks, and how
    PEER_UNKNOWN = "peer_unknown"
    ROLE_INSUFFICIENT = "role_insufficient"
    CONNECTIONS_EXCEEDED = "connections_exceeded"
    REQUEST_MALFORMED = "request_malformed"
    PAYMENT_UNKNOWN = "payment_unknown"
    SESSION_UNKNOWN = "session_unknown"
    WALLET_EXISTS = "wallet_exists"
    WALLET_IS_DEFAULT = "wallet_is_default"
    CONFIRMATION_WRONG = "confirmation_wrong"
    KEK_ROTATION = "kek_rotation"
    BACKUP_UNKNOWN = "backup_unknown"
    PROPOSAL_UNKNOWN = "proposal_unknown"
    PROPOSAL_STALE = "proposal_stale"
    POLICY_LIMIT = "policy_limit"
    INTERNAL = "internal"
    # egress
    KEYD_UNREACHABLE = "keyd_unreachable"
    KEYD_ERROR = "keyd_error"
    EGRESS_DISABLED = "egress_disabled"
    TERMS_MISSING = "terms_missing"
    TERMS_TOO_LARGE = "terms_too_large"
    TERMS_TIMEOUT = "terms_timeout"
    PAYMENT_HEADER_TOO_LONG = "payment_header_too_long"
    PAYMENT_PRECONDITION = "payment_precondition"
    BODY_TOO_LARGE = "body_too_large"
    EGRESS_FULL = "egress_full"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    HOST_UNVERIFIED = "host_unverified"
    OWN_PAYMENT = "own_payment"
    APP_DECLINED = "app_declined"
    KEY_IN_HEADER = "key_in_header"
    ALREADY_PAID = "already_paid"
    UPSTREAM_LOST = "upstream_lost"
    CLIENT_GONE = "client_gone"
    DESTINATION_PRIVATE = "destination_private"
    DESTINATION_NOT_ALLOWED = "destination_not_allowed"

    @property
    def explanation(self) -> Explanation:
        return _EXPLANATIONS[self]

    @property
    def hint(self) -> str:
        return self.explanation.remedy


_EXPLANATIONS: dict[Reason, Explanation] = {
    Reason.CALLER_UNKNOWN: Explanation(
        "Nobody can say which program asked, and unknown callers do not pay.",
        "A program on this machine must reach egress directly, not through another network namespace. A container "
        "or another host needs a proxy user and token: [[callers]] in egress.toml.",
    ),
    Reason.CALLER_NOT_ALLOWED: Explanation(
        "The user or proxy name that asked is not on the list of those who may pay.",
        "If it should pay, add it to `callers` under [x402] in keyd.toml: `uid:1000`, a user name, `@group` or "
        "`proxy:NAME`, and restart osmoda-keyd.",
    ),
    Reason.SESSION_INVALID: Explanation(
        "The session that the program runs in has ended, has expired, or belongs to another user.",
        "Start the task again: `osmoda-keyctl x402 run --label NAME --budget USD -- CMD`. A session ends with the command "
        "it was made for, and its token is worth nothing afterwards.",
    ),
    Reason.SESSION_REQUIRED: Explanation(
        "The user pays inside of a session only, and the program showed none.",
        "Start the task with `osmoda-keyctl x402 run --label NAME --budget USD -- CMD`. A program that drops the credentials in its "
        "proxy variables (Java's own HTTP client) needs a setting for them, or cannot pay.",
    ),
    Reason.X402_DISABLED: Explanation(
        "Payments are switched off in keyd.",
        "Set `enable = true` under [x402] in keyd.toml and restart osmoda-keyd.",
    ),
    Reason.DOMAIN_NOT_ALLOWED: Explanation(
        "The host that asked for money is not on the list of domains that may be paid.",
        "If you trust it: `osmoda-keyctl x402 allow DOMAIN`, or `allowed_domains` under [x402] in keyd.toml "
        "(`api.example.com`, `*.example.com`, or `http://host:port` for plain http).",
    ),
    Reason.DOMAIN_DENIED: Explanation(
        "The host that asked for money is on the list of domains that are never paid.",
        "If it should be paid after all: `osmoda-keyctl x402 allow DOMAIN`, or take it from `denied_domains`.",
    ),
    Reason.FROZEN: Explanation(
        "All payments are frozen.",
        "When the cause is understood, an administrator runs `osmoda-keyctl x402 unfreeze`.",
    ),
    Reason.HOST_QUARANTINED: Explanation(
        "This host took payments several times in a row without delivering or proving settlement.",
        "`osmoda-keyctl x402 payments --domain DOMAIN` shows them; `osmoda-keyctl x402 reset DOMAIN` lets it be paid again.",
    ),
    Reason.COOL_DOWN: Explanation(
        "The server refused the payment for this very request a moment ago.",
        "Wait ten seconds before trying again; the same authorization is then sent once more.",
    ),
    Reason.INTENT_OPEN_TERMS_CHANGED: Explanation(
        "This request was already paid for and the outcome is open, but the server now asks for other terms.",
        "Wait until the first payment has expired (`osmoda-keyctl x402 payments` shows when), then try again. "
        "A second payment for the same request is never made while the first can still be settled.",
    ),
    Reason.INTENT_UNRESOLVED: Explanation(
        "An earlier payment for the same request has just expired and may still turn out to be settled.",
        "Try again in two minutes; the request then counts as a new purchase.",
    ),
    Reason.BUDGET_DAILY: Explanation(
        "The payment would exceed today's budget.",
        "`osmoda-keyctl x402 policy` shows what was spent. Wait until the next UTC day, or `osmoda-keyctl x402 budget USD`.",
    ),
    Reason.BUDGET_DOMAIN: Explanation(
        "The payment would exceed what this domain may be paid in a day.",
        "Wait until the next UTC day, or `osmoda-keyctl x402 budget USD --domain DOMAIN`.",
    ),
    Reason.BUDGET_CALLER: Explanation(
        "The payment would exceed what this caller may spend in a day.",
        "Wait until the next UTC day, or `osmoda-keyctl x402 budget USD --caller CALLER`.",
    ),
    Reason.BUDGET_CALLER_DOMAIN: Explanation(
        "The payment would exceed what this caller may spend at this domain in a day.",
        "Wait until the next UTC day, or `osmoda-keyctl x402 budget USD --caller CALLER --domain DOMAIN`.",
    ),
    Reason.BUDGET_SESSION: Explanation(
        "The payment would exceed the budget of the session that the program runs in.",
        "Finish the task without it, or start it again with a larger `osmoda-keyctl x402 run --budget USD`.",
    ),
    Reason.RATE_LIMIT: Explanation(
        "More in a minute than is allowed: payments (`payments_per_minute`), or an agent's questions and changes.",
        "Try again in a minute; if so many payments are normal use, raise `payments_per_minute`.",
    ),
    Reason.PIN_PAY_TO: Explanation(
        "The host wants to be paid to another address than when it was first paid.",
        "`osmoda-keyctl x402 pending` shows it. "
        "If the change is genuine, `osmoda-keyctl x402 approve ID` lets the next try pay it, and pins the new address.",
    ),
    Reason.PIN_ASSET: Explanation(
        "The host wants to be paid in another token or on another network than when it was first paid.",
        "`osmoda-keyctl x402 pending` shows it. "
        "If the change is genuine, `osmoda-keyctl x402 approve ID` lets the next try pay it, and pins the new token.",
    ),
    Reason.PIN_PRICE: Explanation(
        "The price of this request rose above the band around its first price.",
        "`osmoda-keyctl x402 pending` shows it. "
        "If the price is right, `osmoda-keyctl x402 approve ID` lets the next try pay it, and pins the new price.",
    ),
    Reason.APPROVAL_REQUIRED: Explanation(
        "This payment needs a person's approval: it is above the threshold, or the first to this host.",
        "`osmoda-keyctl x402 pending` shows it; after `osmoda-keyctl x402 approve ID` the program's next try goes through.",
    ),
    Reason.SIGNIN_NOT_ALLOWED: Explanation(
        "The host offers access to whoever signs in, and signing in there is not allowed.",
        "If it should be, an administrator allows it with `osmoda-keyctl x402 signin allow DOMAIN`; until then it is paid.",
    ),
    Reason.SIGNIN_NEVER_PAID: Explanation(
        "No payment to this host is on record, so there is no wallet that it could know.",
        "Nothing to do: after the first payment the same wallet signs in.",
    ),
    Reason.SIGNIN_UNSUITABLE: Explanation(
        "The host's challenge is not bound to its own origin, not fresh, or on no network that is allowed.",
        "Report it to the host if it lasts; until then it is paid.",
    ),
    Reason.WALLET_MISSING: Explanation(
        "There is no wallet with the label that should pay.",
        "Create one with `osmoda-keyctl wallet create LABEL` or `osmoda-keyctl wallet import LABEL --key-file FILE`, "
        "and name it in `default_wallet_label`.",
    ),
    Reason.WALLET_UNREADABLE: Explanation(
        "The wallet file cannot be decrypted: it was changed, swapped, or belongs to another key-encryption key.",
        "Restore the wallet file and the key-encryption key from the same backup.",
    ),
    Reason.WALLET_ARCHIVED: Explanation(
        "The wallet that should pay is archived: it signs nothing, not even the repeat of an open payment.",
        "`osmoda-keyctl wallet restore LABEL` puts it back, `osmoda-keyctl wallet default LABEL` lets another one pay.",
    ),
    Reason.LEDGER_UNAVAILABLE: Explanation(
        "The ledger cannot be written, so nothing is signed.",
        "Free disk space, or mend the file system under keyd's state_dir; then it goes on by itself. Not if it is damaged: "
        "`osmoda-keyctl ledger verify` says so.",
    ),
    Reason.OFFER_MALFORMED: Explanation(
        "The server's offer is not a valid PaymentRequirements object.",
        "Nothing to do here: report it to the seller. `osmoda-keyctl ledger tail --json` shows what was received.",
    ),
    Reason.SCHEME_UNSUPPORTED: Explanation(
        "The server asks for a payment scheme other than `exact`.",
        "Only `exact` is paid; ask the seller to offer it.",
    ),
    Reason.NETWORK_UNKNOWN: Explanation(
        "The offer names a network that keyd does not know.",
        "Add a token of this network under [[assets]] in keyd.toml, if it is an EVM network you trust.",
    ),
    Reason.NETWORK_NOT_ALLOWED: Explanation(
        "The offer's network is known but not on the list of networks to pay on.",
        "Add its CAIP-2 id (for example `eip155:8453`) to `networks` under [x402] in keyd.toml.",
    ),
    Reason.ASSET_UNKNOWN: Explanation(
        "The offer's token is not in keyd's own asset table.",
        "If you trust the token, add it under [[assets]] in keyd.toml with its address, decimals and USD value.",
    ),
    Reason.ASSET_NOT_ALLOWED: Explanation(
        "The offer's token is known but not on the list of tokens to pay in.",
        "Add it to `allowed_assets` under [x402] in keyd.toml, like `USDC` or `USDC@eip155:8453`.",
    ),
    Reason.ASSET_MISMATCH: Explanation(
        "The offer states another EIP-712 name or version for a token than keyd's table: it could never settle.",
        "Report it to the seller. If the table is wrong for this token, correct it under [[assets]].",
    ),
    Reason.TRANSFER_METHOD_UNSUPPORTED: Explanation(
        "The offer asks for Permit2 or another transfer method than EIP-3009.",
        "These methods need allowances and are not supported; ask the seller for an EIP-3009 token.",
    ),
    Reason.PAYMENT_FLOW_UNSUPPORTED: Explanation(
        "The offer asks to settle before the work is done (upfront or escrow).",
        "Only the authorization flow is paid; ask the seller to offer it.",
    ),
    Reason.AMOUNT_INVALID: Explanation(
        "The offer's amount is not a positive decimal integer of atomic units below 2^256.",
        "Nothing to do here: report it to the seller.",
    ),
    Reason.PAY_TO_INVALID: Explanation(
        "The recipient is not a sound address: zero, the token itself, our own wallet, or a bad checksum.",
        "Nothing to do here: report it to the seller.",
    ),
    Reason.PAY_TO_NOT_ALLOWED: Explanation(
        "The recipient is not among those that [x402.pay_to] lists for this domain.",
        "If the seller's address changed, correct the list in keyd.toml.",
    ),
    Reason.TIMEOUT_INVALID: Explanation(
        "maxTimeoutSeconds is zero, negative or not an integer.",
        "Nothing to do here: report it to the seller.",
    ),
    Reason.APP_LIMIT: Explanation(
        "The program itself set a lower limit for this request (X-402-Max).",
        "If the price is right, raise or drop X-402-Max in the program's request.",
    ),
    Reason.APP_LIMIT_MALFORMED: Explanation(
        "The program's X-402-Max, X-402-Pay or X-402-Intent cannot be read, or came twice, or another header begins "
        "with X-402-, which might be one of them misspelt; so nothing is paid.",
        "Write X-402-Max like `0.05`, `USDC:0.05` or `USDC@base:0.05`, X-402-Pay like `USDC@base`, and "
        "X-402-Intent with 1 to 128 characters; each once, in the request's head.",
    ),
    Reason.CAP_PER_PAYMENT: Explanation(
        "The cheapest acceptable offer costs more than a single payment may.",
        "If the price is right, `osmoda-keyctl x402 cap USD`, or raise `max_payment_usd` under [x402] in keyd.toml.",
    ),
    Reason.PREPAY_NOT_ALLOWED: Explanation(
        "egress wanted to pay before the server asked; no rule under [[x402.prepay]] permits it, or the terms are not the "
        "pinned ones.",
        "Nothing to do here: the request went out unpaid, and is paid as usual if the server asks.",
    ),
    Reason.PEER_UNKNOWN: Explanation(
        "The user that connected to keyd's socket has no role.",
        "Add the user to one of the lists under [peers] in keyd.toml, if it should have one.",
    ),
    Reason.ROLE_INSUFFICIENT: Explanation(
        "The user that connected to keyd's socket has no role that may do this.",
        "Use an account with the role that the message names, or change [peers] in keyd.toml.",
    ),
    Reason.CONNECTIONS_EXCEEDED: Explanation(
        "The user that connected to keyd's socket has as many connections open as its role may have.",
        "Close connections that are not used; docs/keyd-protocol.md has the numbers under Limits.",
    ),
    Reason.REQUEST_MALFORMED: Explanation(
        "The request does not have the form that docs/keyd-protocol.md gives.",
        "Correct the field that the message names.",
    ),
    Reason.PAYMENT_UNKNOWN: Explanation(
        "There is no payment with this id.",
        "`osmoda-keyctl x402 payments` lists the payments that were made.",
    ),
    Reason.SESSION_UNKNOWN: Explanation(
        "There is no such session of this user.",
        "`osmoda-keyctl x402 sessions` lists those that are open.",
    ),
    Reason.WALLET_EXISTS: Explanation(
        "A wallet with this label, or with this key, exists already, and is never overwritten.",
        "Choose another label; `osmoda-keyctl wallet list` shows those in use.",
    ),
    Reason.WALLET_IS_DEFAULT: Explanation(
        "The default wallet was to be archived: after that nothing would be paid.",
        "Let another one pay first (`osmoda-keyctl wallet default LABEL`), or say that you mean it with --even-default.",
    ),
    Reason.CONFIRMATION_WRONG: Explanation(
        "A key was to leave keyd, and the confirmation is not the label of its wallet.",
        "`osmoda-keyctl wallet export LABEL --out FILE` asks for it; type the label.",
    ),
    Reason.KEK_ROTATION: Explanation(
        "The key-encryption key is being changed, or cannot be changed in the way that was asked for.",
        "`osmoda-keyctl wallet kek` shows where it stands; `osmoda-keyctl wallet rotate-kek` starts it again and ends it.",
    ),
    Reason.BACKUP_UNKNOWN: Explanation(
        "keyd has no such backup: it was fetched, another one was made since, or keyd was restarted.",
        "Make a new one: `osmoda-keyctl backup FILE`.",
    ),
    Reason.PROPOSAL_UNKNOWN: Explanation(
        "Nothing with this id is waiting for approval: it was decided, it expired, or it never was.",
        "`osmoda-keyctl x402 pending` lists what is waiting.",
    ),
    Reason.PROPOSAL_STALE: Explanation(
        "The policy changed after this was proposed: approving it now would permit more than its words say.",
        "Reject it with `osmoda-keyctl x402 reject ID`, and have the agent ask again.",
    ),
    Reason.POLICY_LIMIT: Explanation(
        "The change goes beyond the limits that the base configuration sets.",
        "Choose a value within [x402.limits], or change keyd.toml.",
    ),
    Reason.INTERNAL: Explanation(
        "keyd met a fault of its own and did not pay.",
        "Look at its log (`journalctl -u osmoda-keyd`) and report it as a bug.",
    ),
    Reason.KEYD_UNREACHABLE: Explanation(
        "egress cannot reach keyd, so nothing is paid; other traffic goes on.",
        "Start osmoda-keyd, and compare `keyd_socket` in egress.toml with `socket` in keyd.toml.",
    ),
    Reason.KEYD_ERROR: Explanation(
        "keyd answered something egress does not understand, so nothing is paid.",
        "Check that keyd and egress have the same version; look at keyd's log.",
    ),
    Reason.EGRESS_DISABLED: Explanation(
        "Payments are switched off in egress (`enable = false` or `max_retries = 0`).",
        "Set both under [x402] in egress.toml and restart osmoda-egress.",
    ),
    Reason.TERMS_MISSING: Explanation(
        "The server answered 402 without payment terms that can be read.",
        "It may use another payment system, or send the terms to its own clients only; nothing was paid.",
    ),
    Reason.TERMS_TOO_LARGE: Explanation(
        "The 402 answer is larger than egress is willing to hold.",
        "Nothing to do here: the answer was passed on unpaid.",
    ),
    Reason.TERMS_TIMEOUT: Explanation(
        "The server sent its 402 answer too slowly to be waited for.",
        "Try again; if it stays so, report it to the seller. The answer was passed on unpaid.",
    ),
    Reason.PAYMENT_HEADER_TOO_LONG: Explanation(
        "The payment would have to repeat so much of the server's terms that its header would be refused.",
        "Report it to the seller: offers must stay below about 5 KB. Nothing was signed.",
    ),
    Reason.PAYMENT_PRECONDITION: Explanation(
        "The server answered 412 with payment terms: something has to be done before it can be paid, for example an "
        "allowance for Permit2.",
        "Allowances are never given automatically. Ask the seller for an offer with EIP-3009 transfers.",
    ),
    Reason.BODY_TOO_LARGE: Explanation(
        "The request's body was too large to keep, so the request cannot be repeated with a payment.",
        "Raise `max_request_body` in egress.toml, or send a smaller body.",
    ),
    Reason.EGRESS_FULL: Explanation(
        "egress keeps as much of other requests and answers as it may, so this one could not be kept to be repeated.",
        "Try again, with fewer large requests at the same time, or raise `max_kept` in egress.toml.",
    ),
    Reason.TOO_MANY_CONNECTIONS: Explanation(
        "The user or host has as many connections to egress as it may; this one was answered with 429 and closed.",
        "Close connections that are not used, or raise `max_connections_per_caller` in egress.toml.",
    ),
    Reason.HOST_UNVERIFIED: Explanation(
        "The host that was connected to is not the one that was named, so it is unclear who would be paid.",
        "Send the request with the same host in CONNECT, in TLS (SNI) and in the URL.",
    ),
    Reason.OWN_PAYMENT: Explanation(
        "The program sent a payment of its own, and the server refused it.",
        "egress stays out of payments that a program makes itself.",
    ),
    Reason.APP_DECLINED: Explanation(
        "The program asked not to pay for this request (`X-402-Pay: none`).",
        "Drop the header if the request should be paid.",
    ),
    Reason.KEY_IN_HEADER: Explanation(
        "The program sent X-402-Key, which holds a raw private key. It was not forwarded, and nothing was paid.",
        "Consider that key exposed. Import keys with `osmoda-keyctl wallet import`; programs never need one.",
    ),
    Reason.ALREADY_PAID: Explanation(
        "The server asked for a payment again (402, or 412 with terms) after the payment was sent.",
        "It is never paid twice for one request. `osmoda-keyctl x402 show ID` tells the story; its money stays counted as spent.",
    ),
    Reason.UPSTREAM_LOST: Explanation(
        "The server could not be reached again after its 402, so the payment was not sent.",
        "Try again when the server is reachable; the same request gets the same payment again.",
    ),
    Reason.CLIENT_GONE: Explanation(
        "The program hung up, or cancelled its call, while the payment was prepared; it was not sent.",
        "Nothing to do here; the same request gets the same payment again.",
    ),
    Reason.DESTINATION_PRIVATE: Explanation(
        "The host's address is private, loopback or link-local, and egress does not go there.",
        "If the program should reach it, add it to `allow_private` in egress.toml.",
    ),
    Reason.DESTINATION_NOT_ALLOWED: Explanation(
        "The host is not in egress's own `allowed_domains`, so no traffic goes there, paid or not.",
        "If the program should reach it, add it to `allowed_domains` in egress.toml.",
    ),
}


def explain(code: str) -> Explanation | None:
    """The explanation for `code`, or None if there is no such code."""
    return _EXPLANATIONS.get(Reason(code)) if code in Reason.__members__.values() else None
