//! Certificates on the real binary: loaded, or refused with a way out, and renewed under a server that runs.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::authority::{days_from_now, put, self_issued};
use support::secure::{Place, SETTINGS, shown};
use support::{Authority, Dir, Pair, Server, noise};

#[test]
fn a_renewed_certificate_is_shown_after_a_sighup_and_open_connections_go_on() {
    let place = Place::new();
    let server = place.serve();
    let bytes = noise(5, 30 << 20);
    let mut open = place.client(&server);
    assert_eq!(open.put("large", &bytes).status, 200);
    let mut download = place.client(&server);
    download.begin("GET", &download.path("large"), &[]);
    assert_eq!(download.raw.answer_to_head().status, 200);
    let before = place.shown(&server);

    place.authority.issue().write_to(place.dir.path());
    server.signal("HUP");
    let line = server.wait_for_line(" info certificate replaced ");
    assert!(
        line.contains(" names=localhost,127.0.0.1 expires="),
        "{line}"
    );
    let after = place.shown(&server);
    assert_ne!(before[0], after[0], "another certificate");
    assert_eq!(before[1], after[1], "of the same authority");

    assert_eq!(shown(&open.raw), before);
    assert!(
        open.get("large").body == bytes,
        "an open connection goes on"
    );
    let rest = download.raw.body(bytes.len());
    assert!(rest == bytes, "so does a download");
    let ended = server.stop();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
}

#[test]
fn a_renewed_certificate_is_found_without_a_signal_once_both_files_are_there() {
    let place = Place::new();
    let server = place.serve();
    let before = place.shown(&server);
    let mut open = place.client(&server);
    let renewed = place.authority.issue();

    put(place.dir.path(), "cert.pem", &renewed.chain);
    let line = server.wait_for_line(" error the certificate cannot be loaded");
    assert!(
        line.contains("does not belong to the certificate in cert.pem"),
        "{line}"
    );
    assert_eq!(place.shown(&server), before, "the old one stays in use");

    put(place.dir.path(), "key.pem", &renewed.key);
    server.wait_for_line(" info certificate replaced ");
    assert_ne!(place.shown(&server), before);
    assert_eq!(open.get("1").status, 404, "an open connection goes on");
    assert_eq!(server.lines_with("cannot be loaded"), 1, "{}", server.log());
}

#[test]
fn a_certificate_that_cannot_be_loaded_again_leaves_the_old_one_in_use() {
    let place = Place::new();
    let server = place.serve();
    let before = place.shown(&server);
    fs::remove_file(place.dir.join("key.pem")).expect("removed");
    server.signal("HUP");
    let line = server
        .wait_for_line(" error the certificate cannot be loaded; the one before stays in use ");
    assert!(
        line.contains("cannot read key.pem (tls.key): No such file"),
        "{line}"
    );
    assert_eq!(place.shown(&server), before);
}

#[test]
fn a_sighup_without_tls_changes_nothing() {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start(&dir);
    server.signal("HUP");
    server.wait_for_line("SIGHUP changes nothing");
    assert_eq!(server.client(&token).get("1").status, 404);
    assert_eq!(server.stop().code(), Some(0));
}

const SOURCES: &str = "cachesrv config show --sources";

/// The certificate, the key, what is said, and the way out.
const WRONG: &[(&str, &str, &str, &str)] = &[
    (
        "none.pem",
        "key.pem",
        "cannot read none.pem (tls.certificate): No such file or directory (os error 2)",
        SOURCES,
    ),
    (
        "cert.pem",
        "none.pem",
        "cannot read none.pem (tls.key): No such file or directory (os error 2)",
        SOURCES,
    ),
    (
        ".",
        "key.pem",
        "cannot read . (tls.certificate): it is not a file",
        SOURCES,
    ),
    (
        "empty.pem",
        "key.pem",
        "empty.pem (tls.certificate) holds no certificate in PEM",
        SOURCES,
    ),
    (
        "text.pem",
        "key.pem",
        "text.pem (tls.certificate) holds no certificate in PEM",
        SOURCES,
    ),
    (
        "cert.pem",
        "text.pem",
        "text.pem (tls.key) holds no private key in PEM",
        SOURCES,
    ),
    (
        "damaged.pem",
        "key.pem",
        "damaged.pem (tls.certificate) is damaged",
        "openssl x509 -noout -text -in damaged.pem",
    ),
    (
        "cut.pem",
        "key.pem",
        "cut.pem (tls.certificate) is damaged",
        "openssl x509 -noout -text -in cut.pem",
    ),
    (
        "cert.pem",
        "damaged-key.pem",
        "damaged-key.pem (tls.key) is damaged",
        "openssl pkey -noout -check -in damaged-key.pem",
    ),
    (
        "cert.pem",
        "encrypted.pem",
        "the key in encrypted.pem (tls.key) is encrypted, and the server cannot ask for its passphrase",
        "umask 077; openssl pkey -in encrypted.pem -out encrypted.pem.plain",
    ),
    (
        "cert.pem",
        "legacy.pem",
        "the key in legacy.pem (tls.key) is encrypted, and the server cannot ask for its passphrase",
        "umask 077; openssl pkey -in legacy.pem -out legacy.pem.plain",
    ),
    (
        "cert.pem",
        "other-key.pem",
        "the key in other-key.pem (tls.key) does not belong to the certificate in cert.pem (tls.certificate)",
        "openssl x509 -noout -pubkey -in cert.pem; openssl pkey -pubout -in other-key.pem",
    ),
    (
        "reversed.pem",
        "key.pem",
        "the server's own certificate has to come first in reversed.pem (tls.certificate), before those of its \
             issuers",
        "openssl storeutl -noout -text -certs reversed.pem",
    ),
    (
        "key.pem",
        "cert.pem",
        "key.pem (tls.certificate) holds a key, and cert.pem (tls.key) a certificate: they are swapped",
        "cachesrv serve --set tls.certificate=cert.pem --set tls.key=key.pem",
    ),
];

#[test]
fn what_is_wrong_with_a_certificate_is_said_with_a_way_out() {
    let (dir, authority) = (Dir::new(), Authority::new());
    let (pair, another) = (authority.issue(), authority.issue());
    let path = dir.path();
    pair.write_to(path);
    put(path, "other-key.pem", &another.key);
    put(path, "empty.pem", "");
    put(path, "text.pem", "no certificate at all\n");
    let damaged = pair.chain.replacen("MII", "!!!", 1);
    put(path, "damaged.pem", &damaged);
    put(path, "cut.pem", &pair.chain[..200]);
    put(path, "damaged-key.pem", &pair.key.replacen("MI", "!!", 1));
    let (leaf, ca) = pair
        .chain
        .split_at(pair.chain.find("-----END").expect("PEM") + 26);
    put(path, "reversed.pem", &format!("{ca}{leaf}"));
    put(
        path,
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    put(
        path,
        "legacy.pem",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n\
         -----END RSA PRIVATE KEY-----\n",
    );
    for (certificate, key, error, command) in WRONG {
        let certificate = format!("tls.certificate={certificate}");
        let key = format!("tls.key={key}");
        let outcome = dir.cli(&["serve", "--set", &certificate, "--set", &key]);
        outcome.failed(1, &format!("error: {error}\ntry: {command}\n"));
    }
    assert!(!dir.db().exists(), "nothing was begun");
}

#[test]
fn one_of_the_two_settings_alone_is_a_mistake() {
    let dir = Dir::new();
    for (there, missing) in [
        ("tls.certificate", "tls.key"),
        ("tls.key", "tls.certificate"),
    ] {
        let outcome = dir.cli(&["serve", "--set", &format!("{there}=x.pem")]);
        outcome.failed(
            2,
            &format!(
                "error: {there} is set and {missing} is not: TLS needs both\n\
                 try: cachesrv config show --sources\n"
            ),
        );
    }
}

#[test]
fn a_key_that_may_not_be_read_is_refused_and_one_that_everybody_may_read_is_warned_of() {
    let place = Place::new();
    let key = place.dir.join("key.pem");
    place.dir.evidence().exempt_mode("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    let server = place.serve();
    let line = server.wait_for_line("every user of this machine may read the key");
    assert!(line.ends_with("try=\"chmod o-r key.pem\""), "{line}");
    drop(server);
    // Root may read everything.
    if fs::metadata(&key).is_ok_and(|_| is_root()) {
        return;
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).expect("a mode");
    let outcome = place.dir.cli(&[&["serve"], &SETTINGS[..]].concat());
    outcome.failed(
        1,
        "error: cannot read key.pem (tls.key): Permission denied (os error 13)\ntry: ls -lL key.pem\n",
    );
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What is logged at the start with this certificate.
fn warnings(pair: &Pair) -> String {
    let dir = Dir::new();
    pair.write_to(dir.path());
    let server = Server::start_with(&dir, &SETTINGS);
    server.wait_for_line(" info certificate ");
    let ended = server.stop();
    assert_eq!(ended.code(), Some(0), "{}", ended.log);
    let lines = ended.log.lines().filter(|line| line.contains(" warn "));
    let lines = lines.filter(|line| !line.contains("no token yet"));
    lines
        .map(|line| line.split_once(" warn ").expect("a warning").1)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn what_clients_will_refuse_is_warned_of_and_served_all_the_same() {
    let authority = Authority::new();
    assert_eq!(warnings(&authority.issue()), "");
    let expired = warnings(&authority.issue_with(|params| {
        params.not_before = days_from_now(-30);
        params.not_after = days_from_now(-1);
    }));
    assert!(
        expired.starts_with("the certificate has expired, and clients refuse it expired=20"),
        "{expired}"
    );
    let early = warnings(&authority.issue_with(|params| params.not_before = days_from_now(1)));
    assert!(
        early.starts_with("the certificate is not valid yet, and clients refuse it valid_from=20"),
        "{early}"
    );
    let soon = warnings(&authority.issue_with(|params| params.not_after = days_from_now(13)));
    assert!(
        soon.starts_with("the certificate expires soon expires=20"),
        "{soon}"
    );
    let later = warnings(&authority.issue_with(|params| params.not_after = days_from_now(15)));
    assert_eq!(later, "");
    let nameless = warnings(&authority.issue_with(|params| params.subject_alt_names.clear()));
    assert!(
        nameless.contains("has no subjectAltName, and Nx refuses it"),
        "{nameless}"
    );
    let issuer = warnings(&self_issued());
    assert!(issuer.contains("CA:TRUE), and Nx refuses it"), "{issuer}");
}
