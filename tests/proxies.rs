//! The proxies of the README in front of the real binary, with the configurations that stand there. Ports and
//! paths are others, and nothing else is. A proxy that is not installed is not tested, and that is said.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};
use support::{Authority, Client, Dir, Raw, Server, Token, eventually, noise};

/// Where the client of the test is, so that its address is not that of the proxy.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

/// More than any buffer on the way.
const ARTIFACT_BYTES: usize = 50 << 20;

/// A proxy; killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    trusted: Arc<ClientConfig>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Waits until the proxy of this command listens.
    fn start(command: &mut Command, port: u16, authority: &Authority) -> Self {
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = quiet.spawn().expect("the proxy starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut proxy = Self {
            child,
            address,
            trusted: authority.trusted(),
        };
        eventually("the proxy listens", || {
            let ended = proxy.child.try_wait().expect("a child");
            assert_eq!(ended, None, "the proxy has ended");
            TcpStream::connect(address).ok()
        });
        proxy
    }

    fn client(&self, token: Option<&Token>) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = SocketAddr::from((CLIENT, 0));
        socket
            .bind(&from.into())
            .expect("an address of this machine");
        socket.connect(&self.address.into()).expect("a connection");
        let raw = Raw::over(socket.into()).expect("a socket");
        let raw = raw.with_tls(&self.trusted).expect("a handshake");
        Client::over(raw, token.map(|token| &token.secret[..]))
    }
}

/// The block of the README behind this mark.
fn snippet(mark: &str) -> String {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("README.md");
    let (_, rest) = readme
        .split_once(&format!("<!-- {mark} -->\n"))
        .expect(mark);
    let block = rest.split("```").nth(1).expect("a block");
    block.split_once('\n').expect("lines").1.to_owned()
}

/// Puts something else in the place of what stands in a snippet, once.
fn with(snippet: &str, old: &str, new: &str) -> String {
    assert_eq!(snippet.matches(old).count(), 1, "{old}");
    snippet.replace(old, new)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.push("/usr/sbin".into());
    let is_there = places.iter().any(|place| place.join(program).is_file());
    if !is_there {
        eprintln!("{program} is not installed, so nothing was tested with it");
    }
    is_there
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// A server behind a proxy, and a place for its configuration.
fn server() -> (Dir, Server, Token) {
    let dir = Dir::new();
    let token = dir.token("write");
    let server = Server::start_with(&dir, &["--set", "behind_proxy=true"]);
    (dir, server, token)
}

/// nginx with the server of the README, changed by `change`.
fn nginx(place: &Path, server: &Server, change: impl Fn(String) -> String) -> Proxy {
    let (authority, port) = (Authority::new(), free_port());
    authority.issue().write_to(place);
    let shown = place.display();
    let site = snippet("nginx");
    let site = with(&site, "127.0.0.1:8787", &server.address().to_string());
    let site = with(
        &site,
        "listen 443 ssl",
        &format!("listen 127.0.0.1:{port} ssl"),
    );
    let site = change(site.replace("/etc/ssl/cache.example/", &format!("{shown}/")));
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {shown}/{kind};\n"))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {shown}/pid; error_log {shown}/errors warn;\n\
         events {{ worker_connections 512; }}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
    );
    fs::write(place.join("nginx.conf"), config).expect("written");
    let mut command = Command::new("nginx");
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    command
        .env("PATH", path)
        .arg("-e")
        .arg(place.join("errors"));
    command.arg("-c").arg(place.join("nginx.conf"));
    Proxy::start(&mut command, port, &authority)
}

/// What Nx does, through a proxy at the root.
fn check(proxy: &Proxy, server: &Server, token: &Token) {
    let bytes = noise(9, ARTIFACT_BYTES);
    let mut client = proxy.client(Some(token));
    assert_eq!(client.get("1").status, 404);
    assert_eq!(client.put("1", &bytes).status, 200);
    let answer = client.get("1");
    assert!(answer.body == bytes, "other bytes");
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    assert!(!answer.closes(), "the connection stays");
    assert_eq!(client.put("1", &bytes[..1000]).status, 409);
    // A slash at the end of the URL.
    assert_eq!(client.ask("GET", "//v1/cache/1").body.len(), ARTIFACT_BYTES);

    let mut stranger = proxy.client(None);
    let answer = stranger.put("2", &bytes[..1 << 20]);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    assert!(answer.text().contains("token"), "{}", answer.text());

    let stored = server.wait_for_line("method=PUT path=/v1/cache/1 status=200");
    assert!(stored.contains(&format!(" peer={CLIENT} ")), "{stored}");
    let mut liar = proxy.client(Some(token));
    liar.begin("GET", "/v1/cache/3", &["X-Forwarded-For: 6.6.6.6"]);
    assert_eq!(liar.raw.answer().status, 404);
    let asked = server.wait_for_line("path=/v1/cache/3 ");
    assert!(asked.contains(&format!(" peer={CLIENT} ")), "{asked}");
}

#[test]
fn nginx_of_the_readme_does_all_that_nx_needs() {
    if !is_installed("nginx") {
        return;
    }
    let (_dir, server, token) = server();
    let place = tempfile::tempdir().expect("a directory");
    let proxy = nginx(place.path(), &server, |site| site);
    check(&proxy, &server, &token);
    let errors = fs::read_to_string(place.path().join("errors")).expect("a log");
    assert_eq!(
        errors, "",
        "e.g. that 50 MB were buffered to a temporary file"
    );
}

#[test]
fn nginx_takes_a_path_away_as_the_readme_says() {
    if !is_installed("nginx") {
        return;
    }
    let (_dir, server, token) = server();
    let place = tempfile::tempdir().expect("a directory");
    let proxy = nginx(place.path(), &server, |site| {
        let site = with(&site, "location / {", "location /nx-cache/ {");
        with(
            &site,
            "proxy_pass http://cachesrv;",
            "proxy_pass http://cachesrv/;",
        )
    });
    let mut client = proxy.client(Some(&token)).at("/nx-cache");
    assert_eq!(client.put("1", b"stored").status, 200);
    assert_eq!(client.get("1").body, b"stored");
    server.wait_for_line("method=PUT path=/v1/cache/1 status=200");
}

#[test]
fn caddy_of_the_readme_does_all_that_nx_needs() {
    if !is_installed("caddy") {
        return;
    }
    let (_dir, server, token) = server();
    let place = tempfile::tempdir().expect("a directory");
    let (authority, port, shown) = (Authority::new(), free_port(), place.path().display());
    authority.issue().write_to(place.path());
    let site = with(
        &snippet("caddy"),
        "127.0.0.1:8787",
        &server.address().to_string(),
    );
    let own = format!(":{port} {{\n\ttls {shown}/cert.pem {shown}/key.pem");
    let site = with(&site, "cache.example {", &own);
    let config = format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{site}");
    fs::write(place.path().join("Caddyfile"), config).expect("written");
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]);
    command.arg(place.path().join("Caddyfile"));
    command.env("HOME", place.path());
    let proxy = Proxy::start(&mut command, port, &authority);
    check(&proxy, &server, &token);
}
