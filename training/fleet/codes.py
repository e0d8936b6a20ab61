"""What each code and each fixed word of the fleet means, and what to do about it. Data alone.

A code is stable: `E0xx` ends a command, `E03x` refuses a plan, `E1xx` is a fault of the manifest, `E2xx` an option or
setting, `E30x` and `E31x` refuse a certificate, `W0xx` a warning of a plan. The words stand in `code_words`.
`cis490-jobs explain CODE` prints an entry, and docs/errors.md is made from all of them.
"""

from __future__ import annotations

from training.fleet.code_words import WORDS, Entry, Section

_COMMANDS = (
    Entry(
        "E001", "the receiver's address cannot be used",
        "`--url` or `$CIS490_RECEIVER_URL` is no address of a kind that the command line knows.",
        "Write `http://HOST:PORT`, `https://HOST` or `unix:/path/to.sock`.",
        "cis490-jobs --url http://192.0.2.7:8445 status",
    ),
    Entry(
        "E002", "nothing is called that",
        "No job, host or artifact has this name or id.",
        "Look at the suggestion, or list them all: `cis490-jobs list`, `cis490-jobs workers`.",
        "cis490-jobs show gbt-oracle",
    ),
    Entry(
        "E003", "the word may mean several things",
        "More than one job, host or artifact begins with this word.",
        "Type one of the names below the message, or more of the id.",
        "cis490-jobs show 6a1c0d5e77",
    ),
    Entry(
        "E004", "no receiver answers",
        "Nothing accepts connections at this address, or what answers is not a receiver.",
        "Start it (`systemctl start cis490-trainer-receiver`), or name the right one with `--url` or "
        "`$CIS490_RECEIVER_URL`. `cis490-jobs doctor` looks for the cause.",
        "cis490-jobs --url http://127.0.0.1:8445 status",
    ),
    Entry(
        "E005", "the operator token is missing or wrong",
        "Whatever changes something needs the token that the receiver was started with.",
        "On the receiver's machine `sudo cis490-jobs`; elsewhere the value into `operator-token` (mode 600) of your "
        "credentials, or `export CIS490_OPERATOR_TOKEN=...`. It is taken from nowhere else.",
        "sudo cis490-jobs reload",
    ),
    Entry(
        "E006", "operator control is disabled",
        "The receiver was started without a token, so nobody may change anything through it; or the "
        "manifest does not admit this host.",
        "Start the receiver with `--operator-token-file FILE` (the installer does) or `CIS490_OPERATOR_TOKEN` "
        "set, and give the command line the same value.",
        "sudo scripts/install-trainer-receiver.sh",
    ),
    Entry(
        "E007", "the receiver refused",
        "What was asked for is not possible in the state that the job or host is in; the sentence says why.",
        "Read the sentence; `cis490-jobs show JOB` shows the state.",
        "cis490-jobs requeue --force gbt-oracle",
    ),
    Entry(
        "E008", "the token has characters that no header can carry",
        "`$CIS490_OPERATOR_TOKEN` holds something other than printable ASCII, often the line end or quote "
        "of a file.",
        "Set it anew, without quotes and line ends.",
        "export CIS490_OPERATOR_TOKEN=\"$(tr -d '\\n' < token)\"",
    ),
    Entry(
        "E009", "a Python module is missing",
        "Bundles are packed with zstd, which Python has from 3.14 on.",
        "`python -m pip install backports.zstd`",
        "cis490-jobs pull gbt-oracle",
    ),
    Entry(
        "E010", "a file cannot be read here",
        "`plan FILE` reads the file on the machine where it is typed, not on the receiver's.",
        "Check the path; without FILE the receiver plans its own manifest.",
        "cis490-jobs plan",
    ),
    Entry(
        "E011", "nothing to explain under that code",
        "It is none of the codes and words that this version prints.",
        "`cis490-jobs explain` lists them all.",
        "cis490-jobs explain oom",
    ),
    Entry(
        "E040", "the credentials cannot be used",
        "The folder with this machine's or your certificate is missing, damaged, another user's, or belongs to "
        "somebody in another role.",
        "Look who it belongs to and until when it counts: `python -m training.fleet.join --status --credentials DIR`. "
        "A machine is enrolled anew with a token of `cis490-jobs hosts add NAME`, a person with one of "
        "`cis490-jobs operators add NAME`.",
        "python -m training.fleet.join --status --credentials /var/lib/cis490-worker/credentials",
    ),
    Entry(
        "E061", "the record of a model proves nothing",
        "Its signature does not hold, comes from another lab's key, or the text is no record of how a model was "
        "trained. Somebody changed it, or it was never one.",
        "Do not use the model. `cis490-jobs pull` fetches it again with its record.",
        "cis490-jobs verify-provenance gbt-oracle-7f3c1e02ab11",
    ),
    Entry(
        "E062", "the files are not those that the record was made for",
        "The record holds, but the bundle or a file of the folder here has other bytes than the artifact it names.",
        "Fetch it again into another folder, and compare.",
        "cis490-jobs pull gbt-oracle --keep-bundle --out fresh",
    ),
    Entry(
        "E063", "no root certificate to check a signature with",
        "A record is worth as much as the root it is checked with, so that must be on this machine already: in your "
        "credentials, or in a file that you name.",
        "`--root root.pem`, or `--credentials DIR`.",
        "cis490-jobs verify-provenance record.jsonl --root root.pem",
    ),
)  # fmt: skip

_PLANS = (
    Entry(
        "E030", "no such plan",
        "The receiver remembers the last 16 plans, in memory: this one is older, of another receiver, or "
        "from before a restart. Nothing was changed.",
        "Make a new one: `cis490-jobs plan`.",
        "cis490-jobs reload --plan 7K2QB3XA",
    ),
    Entry(
        "E031", "the queue moved since the plan",
        "A job was claimed, ended, cancelled or queued again after the plan was made, so a reload might do "
        "something else to it. Nothing was changed.",
        "Apply the fresh plan that the message offers, or look again: `cis490-jobs plan`.",
        "E031: gbt-old was claimed by cpu-1 at 14:07 UTC",
    ),
    Entry(
        "E032", "the manifest file changed since the plan",
        "Somebody saved the file again, or the pinned data set is another file now. Nothing was changed.",
        "Look at what the file says now: `cis490-jobs plan`.",
        "cis490-jobs plan",
    ),
    Entry(
        "E033", "the receiver's trainer changed since the plan",
        "The checkout of the receiver was updated. It decides which results are stale and which workers "
        "may take part. Nothing was changed.",
        "`cis490-jobs plan` shows what a reload does now.",
        "cis490-jobs plan",
    ),
    Entry(
        "E034", "another manifest was put in force since the plan",
        "Somebody else reloaded in between. Nothing was changed.",
        "`cis490-jobs plan` shows what is left to do.",
        "cis490-jobs plan",
    ),
)  # fmt: skip

_WARNINGS = (
    Entry(
        "W001", "no enrolled host can run this job",
        "Every host that the manifest names or that has called lacks something the job asks for, or is "
        "denied it. The job would wait for ever.",
        "The hint names the smallest step on the closest host; `cis490-jobs why JOB` shows all of them.",
        "W001 manifest.toml:104: mlp-wide: no enrolled host can run it",
    ),
    Entry(
        "W002", "only hosts that never called may run this job",
        "No host that has called can run it. One that the manifest names may, but what it can do is not "
        "known before its worker reports.",
        "Start the worker there, or declare its `capability` in the manifest.",
        "systemctl start cis490-trainer-worker",
    ),
    Entry(
        "W003", "an attempt goes on under the old id",
        "The manifest no longer has this job, or has another under its name, while a host trains it. The "
        "attempt is not stopped, and its result counts for the old id.",
        "Let it end, or `cis490-jobs cancel ID`.",
        "cis490-jobs cancel 4e4fbff6e929",
    ),
    Entry(
        "W004", "a host that runs jobs gets no more",
        "The manifest no longer names it. What it runs goes on and is accepted.",
        'Add it again, or set `[policy] unknown_hosts = "allow"`, if that was not meant.',
        '[[hosts]] name = "box"',
    ),
    Entry(
        "W005", "two names differ in capitals alone",
        "They are two names here, but one file name on Windows, and mostly a typing error.",
        "Rename one of the two.",
        'name = "lab-1" beside name = "LAB-1"',
    ),
    Entry(
        "W006", "a reload ends the pause of a host",
        "The host was paused after failures in a row. A reload says that somebody has looked, so it gets "
        "jobs again.",
        "Mend it first, or drain it: `cis490-jobs drain HOST`.",
        "cis490-jobs drain box",
    ),
    Entry(
        "W007", "results are stale and stay",
        "The pinned data or the trainer is another one than these results were made with. `on_change = "
        '"keep"`, the default, keeps them.',
        'Set `on_change = "retrain"`, or `cis490-jobs requeue --force JOB`.',
        "cis490-jobs requeue --force gbt-oracle",
    ),
    Entry(
        "W008", "the fleet opens to every host",
        "The manifest in force names hosts, so all others are kept out; the new one names none, so every host that "
        "calls is given jobs.",
        "Name at least one host, if that was not meant.",
        '[[hosts]] name = "box"',
    ),
)  # fmt: skip

_MANIFEST = (
    Entry(
        "E101", "the manifest cannot be read",
        "There is no such file, it is a folder, or the receiver's user may not read it.",
        "Name the right file with `--manifest` or `$CIS490_TRAINING_MANIFEST`, or copy the example there.",
        "cp etc/training_manifest.toml.example /etc/cis490/training_manifest.toml",
    ),
    Entry(
        "E102", "the file is larger than 4 MiB",
        "No manifest is: it is probably another file.",
        "Name the right file.",
        "cis490-jobs plan etc/training_manifest.toml.example",
    ),
    Entry(
        "E103", "the file is not UTF-8",
        "An editor saved it in another encoding.",
        "Save it as UTF-8; the line is the first that does not fit.",
        "iconv -f latin1 -t utf-8 old.toml > new.toml",
    ),
    Entry(
        "E104", "the file is not TOML",
        "The parser stops at the first fault, so there may be more behind it.",
        'Texts stand in "double quotes", lists in [ ], tables begin with [name] or [[name]], comments with '
        "#.",
        'name = "lab"',
    ),
    Entry(
        "E105", "lists or tables are nested too deeply",
        "A manifest has a few levels, not hundreds.",
        "Write `[[hosts]]` and `[[jobs]]`.",
        "[[jobs]]",
    ),
    Entry(
        "E106", "a number has thousands of digits",
        "Numbers have at most 64 bits.",
        "Write it with at most 18 digits.",
        "seed = 7",
    ),
    Entry(
        "E107", "the file declares nothing",
        "It is empty, or holds comments alone: perhaps it was saved half-way.",
        "Begin with `etc/training_manifest.toml.example`.",
        "[[jobs]]",
    ),
    Entry(
        "E110", "a key is not known here",
        "A misspelt key would be ignored silently, so none is.",
        "Look at the suggestion, or remove the line.",
        "prioritty = 3   (did you mean priority?)",
    ),
    Entry(
        "E111", "a key is missing",
        "The table is of no use without it.",
        "Add the line that the message shows.",
        'model = "gbt"',
    ),
    Entry(
        "E112", "a value is of another kind, or out of range",
        "The message has what was found and what is expected.",
        "Write the value that the message shows, or another that is expected.",
        'seed = 7   (not seed = "7")',
    ),
    Entry(
        "E113", "a value is none of the choices",
        "The key takes one of a few words, or the names of hosts or models.",
        "Look at the suggestion, or take one of those listed.",
        'mode = "realistic"',
    ),
    Entry(
        "E114", "a name cannot be used",
        "Names become file names and parts of addresses: 1 to 64 letters, digits, dots, dashes or "
        "underscores, the first no dot.",
        "Write the name that the message shows.",
        'name = "my-lab"   (not "my lab")',
    ),
    Entry(
        "E115", "a table or a list is written in another form",
        "TOML has tables in [one] and lists of tables in [[two]] brackets.",
        "Write it as the message shows.",
        "[[jobs]]",
    ),
    Entry(
        "E116", "a name is taken",
        "Two jobs, or two hosts, have one name.",
        "Give one of them another name.",
        'name = "gbt-oracle-seed-2"',
    ),
    Entry(
        "E117", "two jobs are the same job",
        "They agree in everything that makes a job: model, mode, hyper, split_recipe, train_hosts and "
        "seed. A hyper key at its default makes no difference.",
        "Remove one of the two, or change one of these.",
        "seed = 2",
    ),
    Entry(
        "E118", "the model has no such option",
        "A hyper key belongs to another model, or is misspelt.",
        "Look at the suggestion; docs/manifest.md lists the options of each model.",
        "hyper = { learning_rate = 0.1 }",
    ),
    Entry(
        "E119", "an option's value does not fit",
        "It is of another type, out of range, or contradicts another option of the same model.",
        "Write what the message shows.",
        "hyper = { epochs = 60 }",
    ),
    Entry(
        "E120", "two keys contradict each other",
        "Each is fine alone; together they make no sense.",
        "Change or remove one of the two.",
        "stall_s = 60 beside timeout_s = 3600",
    ),
    Entry(
        "E121", "the data set's file is not there",
        "`[dataset] file` counts from the manifest's folder, on the receiver's machine.",
        "Put the file there, or write its whole path.",
        'file = "/var/lib/cis490/lab.tar.zst"',
    ),
    Entry(
        "E122", "the data set's file holds other data",
        "The episodes in the file are not those that `[dataset] id` names, or the file is damaged.",
        "Write the id that packing printed, or copy the file again.",
        'id = "4f1e02ab..."',
    ),
)  # fmt: skip

_OPTIONS = (
    Entry(
        "E201", "the receiver cannot listen there",
        "`--listen-addr` is no address, or one that other machines reach: these come through the proxy, which asks for "
        "their certificates.",
        "Listen on loopback or a Unix socket, and let the proxy listen for others.",
        "--listen-addr 127.0.0.1:8445",
    ),
    Entry(
        "E202", "heartbeats would come later than leases end",
        "`--heartbeat-s` must be less than `--stale-after-s`, or every job is lost again and again.",
        "Raise `--stale-after-s`, or lower `--heartbeat-s`.",
        "--heartbeat-s 30 --stale-after-s 600",
    ),
    Entry(
        "E203", "an option of the receiver has no such value",
        "Numbers of seconds and bytes are above 0.",
        "Write the number that is expected.",
        "--sweep-every-s 60",
    ),
    Entry(
        "E204", "there is no certificate authority to know hosts by",
        "With `--worker-auth mtls` a host is who its certificate says, and `--ca-dir` names whose certificates count.",
        "Make the folder once with `python -m training.fleet.ca init`, and name it with `--ca-dir`.",
        "--worker-auth mtls --ca-dir /etc/cis490/ca",
    ),
    Entry(
        "E205", "identities would be anybody's word",
        "With `--worker-auth mtls` the receiver believes the proxy, so nobody else may reach it. A port is open to "
        "every program of the machine; a Unix socket to those who may open its folder.",
        "Listen on a Unix socket in a folder of the proxy's group.",
        "--listen-addr unix:/run/cis490/receiver.sock",
    ),
    Entry(
        "E206", "the certificate authority cannot be used",
        "A file in `--ca-dir` is missing, or does not belong to the others; the message names it.",
        "`python -m training.fleet.ca show` looks at the folder; a backup brings it back.",
        "python -m training.fleet.ca show --dir /etc/cis490/ca",
    ),
    Entry(
        "E207", "the file with the operator token cannot be used",
        "`--operator-token-file` holds one token, and while tokens are rotated the former one on a second line. Only "
        "its owner may open it.",
        "Write it anew, with mode 600, and start the receiver again.",
        "(umask 077; head -c 32 /dev/urandom | base64 > /etc/cis490/operator-token)",
    ),
    Entry(
        "E211", "an option of the worker has no such value",
        "It came from the command line or from the environment; the message names which.",
        "Write what is expected, or leave it out for the default.",
        "--poll-s 5",
    ),
    Entry(
        "E212", "the receiver's address cannot be used by the worker",
        "`--receiver-url` or `$CIS490_RECEIVER_URL` is no address of a kind that the worker knows.",
        "Write `http://HOST:PORT`, `https://HOST` or `unix:/path/to.sock`.",
        "--receiver-url http://192.0.2.7:8445",
    ),
)  # fmt: skip

_ENROLMENT = (
    Entry(
        "E301", "nobody can be enrolled under that name",
        "A certificate is for a host, an operator or a reader; names match `[A-Za-z0-9._-]{1,64}`, with no "
        "leading dot.",
        "Use the name that the manifest gives the host.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E302", "the certificate signing request cannot be used",
        "It is no PKCS #10 in PEM form, its signature is not its key's, or the key is none of ECDSA on P-256.",
        "Let `python -m training.fleet.join` make it; in another language: `openssl req` with such a key.",
        "openssl ecparam -name prime256v1 -genkey",
    ),
    Entry(
        "E303", "this receiver gave out no such join token",
        "It belongs to another fleet, or a part of it is missing. Tokens are forgotten 90 days after their end.",
        "Make a new one on this fleet's receiver, and copy the whole line.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E304", "the join token is for another name",
        "A token lets one host, operator or reader in, under the name that it was made for.",
        "Make one for the right name.",
        "cis490-jobs hosts add gpu-box-2",
    ),
    Entry(
        "E305", "the join token was used already",
        "A token works once: for the first machine that shows it, whose key it is bound to. When that was "
        "not you, somebody else has the line.",
        "Make a new one. If somebody else may have used it: `cis490-jobs hosts revoke NAME` first.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E306", "the join token has ended",
        "A token lasts 15 minutes, and not beyond a revocation of its name.",
        "Make a new one, and use it at once.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E307", "the certificate is none of this fleet's",
        "To renew late, a machine shows its former certificate: it must have been issued to one host, "
        "operator or reader by this receiver's authority.",
        "Join with a token.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E308", "the proof of the former key is wrong",
        "The signature does not fit the certificate that is shown, or was made over another request.",
        "Is identity.pem whole, with the key that belongs to its certificate? Else join with a token.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E309", "the certificate ended too long ago",
        "For 30 days after its end a certificate can be renewed with the key alone.",
        "Join with a token; what the machine has in its spool is delivered afterwards.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E311", "the renewal keeps the old key",
        "Each certificate has a key of its own, so that a stolen key ends with its certificate.",
        "Make a new key for the request.",
        "python -m training.fleet.renewal",
    ),
    Entry(
        "E312", "the issuer of client certificates has ended",
        "clients.pem on the receiver lasts three years, and nothing that it issues outlives it.",
        "Make a new one from the root's key, then start the receiver anew.",
        "python -m training.fleet.ca rotate clients",
    ),
    Entry(
        "E313", "there is no certificate to renew",
        "Renewal takes place over a connection with the certificate that is renewed.",
        "Ask at the address in credentials.json; without a certificate, join with a token.",
        "python -m training.fleet.renewal",
    ),
    Entry(
        "E314", "this receiver has no certificate authority",
        "It was started without `--ca-dir`: it can let nobody in, and revoke nobody.",
        "Make one (`python -m training.fleet.ca init`) and start the receiver with it.",
        "--ca-dir /etc/cis490/ca --worker-auth mtls",
    ),
    Entry(
        "E315", "too many wrong join tokens",
        "Somebody tries secrets. A right token still works; wrong ones are not looked at for a while.",
        "Look who it is: `journalctl -u cis490-trainer-receiver | grep identity.refused`.",
        "cis490-jobs hosts add gpu-box-1",
    ),
    Entry(
        "E316", "the manifest does not name the host",
        "It has, or had, a certificate, but the manifest in force does not admit it.",
        "Add it to the manifest, then reload.",
        '[[hosts]] name = "gpu-box-1"',
    ),
    Entry(
        "E317", "the identity was revoked",
        "An operator took it away, with every certificate that it had. The sentence says why.",
        "Make a token, if it shall come back: certificates from then on count.",
        "cis490-jobs hosts add gpu-box-1",
    ),
)  # fmt: skip

SECTIONS: tuple[Section, ...] = (
    Section("Commands", "What ends a command of `cis490-jobs`.", _COMMANDS),
    Section("Plans", "Why a plan was not carried out.", _PLANS),
    Section("Warnings of a plan", "What is certainly so, and perhaps not meant.", _WARNINGS),
    Section("Faults of a manifest", "All faults of a file are told at once, each with its line.", _MANIFEST),
    Section("Options and settings", "Of the receiver and of the worker.", _OPTIONS),
    Section("Enrolment", "Why the receiver gives no certificate.", _ENROLMENT),
    *WORDS,
)

CODES: dict[str, Entry] = {entry.code: entry for section in SECTIONS for entry in section.entries}
"""Every entry by its code."""


def find(word: str) -> Entry | None:
    """The entry of a code or word, whatever its capitals."""
    return CODES.get(word) or CODES.get(word.upper()) or CODES.get(word.lower().replace("-", "_"))
