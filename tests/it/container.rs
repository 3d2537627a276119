//! What breaks images: a root that cannot be written, no /tmp, no /proc, no shell, no list of users, a
//! volume of somebody else. The program runs in such a place, made of namespaces, with nothing but
//! itself, its libraries and the configuration of the image. And what Dockerfile, .dockerignore and
//! railway.json promise.
//!
//! `PORTCULLIS_IMAGE_BINARY` names another binary, for example the static one that Dockerfile builds.

use crate::netns::program;
use crate::support::{binary, portcullis, root, stderr, stdout};
use portcullis::decode::time::format;
use portcullis::serve::auth::Need;
use portcullis::serve::routes;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

const OPS: &str = "operator-token-0123456789";
const APP: &str = "bouncer-token-0123456789";
/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that nobody listens at just now.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    // Below those that the kernel gives to whoever connects, or another test might have it meanwhile.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_process = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = 20_000 + (of_process + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// One request over HTTP; the status, and head and body of the answer. `None`: nobody answers.
pub fn ask(
    at: SocketAddr,
    request: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = format!(
        "{request} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer))
}

/// Waits for something that happens by itself; `why` says what is there instead.
pub fn wait_until(what: &str, why: &dyn Fn() -> String, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", why());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `n` failed logins of the last minute from one address, each with an account of its own.
fn logins(n: i64, ip: &str) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros();
    let first = i64::try_from(now).unwrap() - 60_000_000;
    (0..n)
        .map(|i| {
            let time = format(first + i * 1_000_000);
            format!(
                r#"{{"timestamp":"{time}","level":"WARNING","logger":"security","message":"FAILED_LOGIN: email=u{i}@example.org, ip={ip}, reason=x"}}"#
            ) + "\n"
        })
        .collect()
}

/// The configuration of the image, reading standard input.
fn configuration() -> String {
    let text = read("deploy/railway/portcullis.yaml");
    let (own, other) = ("source: { railway: {} }", "source: { stdin: {} }");
    assert!(text.contains(own), "{text}");
    text.replace(own, other)
}

/// What stands in the image, and its volume beside it.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Self {
        let image = Self(tempfile::tempdir().unwrap());
        let root = image.path("root");
        fs::create_dir_all(root.join("state")).unwrap();
        fs::create_dir(image.path("volume")).unwrap();
        let binary = std::env::var("PORTCULLIS_IMAGE_BINARY").unwrap_or(binary().to_owned());
        put(Path::new(&binary), &root.join("portcullis"));
        // Of a static binary it says that there are none.
        let libraries = Command::new(program("ldd")).arg(&binary).output().unwrap();
        for path in stdout(&libraries).split_whitespace().filter(|word| word.starts_with('/')) {
            put(Path::new(path), &root.join(path.trim_start_matches('/')));
        }
        fs::write(root.join("portcullis.yaml"), configuration()).unwrap();
        image
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The program in there, as a user whom nobody knows, without a capability.
    fn command(&self, args: &[&str]) -> Command {
        const ENTER: &str = r#"
root=$1 volume=$2 unshare=$3
shift 3
mount --bind "$root" "$root" && mount --bind "$volume" "$root/state" &&
  mount -o remount,bind,ro "$root" "$root" || { echo "namespaces with mounts are needed" >&2; exit 99; }
exec "$unshare" --user --map-user=65532 --map-group=65532 --root="$root" --wd=/ /portcullis "$@"
"#;
        let unshare = program("unshare");
        let mut command = Command::new(&unshare);
        command
            .env_clear()
            .args(["--user", "--map-root-user", "--mount", "/bin/sh", "-c", ENTER, "sh"])
            .args([self.path("root"), self.path("volume")])
            .arg(unshare)
            .args(args)
            .envs([("PORTCULLIS_TOKEN", OPS), ("BOUNCER_TOKEN", APP), ("NO_COLOR", "1")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Everything that is there, but for what is in the volume.
    fn listing(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &Path, all: &mut BTreeSet<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, all);
                }
                all.insert(path);
            }
        }
        let mut all = BTreeSet::new();
        walk(&self.path("root"), &mut all);
        all
    }
}

fn put(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let real = from.canonicalize().unwrap();
    if fs::hard_link(&real, to).is_err() {
        fs::copy(&real, to).unwrap();
    }
}

/// Kills it, also at the end of a test that panics.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn it_runs_where_there_is_nothing_but_itself() {
    let image = Image::new();
    let before = image.listing();
    let port = free_port();
    let mut command = image.command(&["run"]);
    command.env("PORT", port.to_string()).env("PORTCULLIS_MODE", "enforce").stdin(Stdio::piped());
    let mut running = Killed(command.spawn().unwrap());
    let mut input = running.0.stdin.take().unwrap();
    input.write_all(logins(21, "203.0.113.7").as_bytes()).unwrap();

    // At the port that the platform names, by both families, without a token.
    for ip in [Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()] {
        let at = SocketAddr::new(ip, port);
        wait_until("it answers", &String::new, || {
            ask(at, "GET /health", &[], "").is_some_and(|(status, _)| status == 200)
        });
    }
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let decisions = "GET /v1/decisions?ip=203.0.113.7";
    let nobody = ask(at, decisions, &[], "").unwrap().0;
    assert!(matches!(nobody, 401 | 403), "{nobody} without a token");
    let told = || ask(at, decisions, &[("X-Api-Key", APP)], "").unwrap().1;
    wait_until("the block is in force", &told, || told().contains(r#""type":"ban""#));

    let process = PathBuf::from(format!("/proc/{}", running.0.id()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let capabilities = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert!(capabilities.ends_with("0000000000000000"), "{capabilities}");
    let users = fs::read_to_string(process.join("uid_map")).unwrap();
    assert_eq!(users.split_whitespace().next(), Some("65532"));

    let id = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let code = running.0.wait().unwrap().code();
    let mut said = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(code, Some(143), "{said}");
    drop(input);
    assert!(image.path("volume/portcullis.db").is_file(), "{said}");
    for args in [["state", "verify"], ["state", "compact"], ["state", "info"]] {
        let output = image.run(&args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
    let info = stdout(&image.run(&["state", "info"]));
    assert!(info.contains("active"), "{info}");
    assert_eq!(image.listing(), before, "it writes nowhere but into the volume");
}

#[test]
fn a_volume_of_somebody_else_is_said_with_what_to_do() {
    let image = Image::new();
    let mut mode = fs::metadata(image.path("volume")).unwrap().permissions();
    mode.set_mode(0o555);
    fs::set_permissions(image.path("volume"), mode).unwrap();
    let output = image.run(&["run"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    for part in ["/state", "permission denied", "RAILWAY_RUN_UID=0", "portcullis.yaml:"] {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
}

#[test]
fn a_port_that_cannot_be_ends_it_with_what_would_be_right() {
    let image = Image::new();
    let output = image.command(&["run"]).env("PORT", "http").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    for part in ["environment variable PORT", "`PORT` is no port", "from 1 to 65535"] {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
    // One that is taken says who chose it.
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = image.command(&["run"]).env("PORT", &port).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("where the variable PORT says"), "{}", stderr(&output));
}

/// As a file of the image it is read whole, with the source that it names.
#[test]
fn the_configuration_of_the_image_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("portcullis.yaml"), read("deploy/railway/portcullis.yaml"))
        .unwrap();
    let mut check = portcullis(folder.path());
    check.arg("check").envs([("PORTCULLIS_TOKEN", OPS), ("BOUNCER_TOKEN", APP), ("PORT", "8080")]);
    let output = check.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The instructions of the Dockerfile with what they are given, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| {
        let (word, rest) = line.split_once(' ').unwrap();
        (word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    lines.map(split).collect()
}

#[test]
fn the_image_is_what_dockerfile_says_it_is() {
    let all = instructions();
    let last = all.iter().rposition(|(word, _)| word == "FROM").unwrap();
    let (build, image) = all.split_at(last);
    assert_eq!(image[0].1, "scratch");
    let only = |word: &str| {
        let mut found =
            image.iter().filter(|(known, _)| known == word).map(|(_, rest)| rest.as_str());
        let one = found.next().unwrap_or_else(|| panic!("no {word}"));
        assert_eq!(found.next(), None, "two {word}");
        one
    };
    // No shell is there, so none may be asked for; numbers, since no list of users is there.
    assert_eq!(only("ENTRYPOINT"), r#"["/portcullis"]"#);
    assert_eq!(only("CMD"), r#"["run"]"#);
    let user: Vec<u32> = only("USER").split(':').map(|id| id.parse().unwrap()).collect();
    assert!(user.len() == 2 && !user.contains(&0), "{user:?}");
    for (word, rest) in image {
        let known = ["FROM", "COPY", "USER", "ENTRYPOINT", "CMD"];
        // Railway refuses VOLUME; EXPOSE would name a port that PORT changes.
        assert!(known.contains(&word.as_str()), "{word} {rest}");
    }
    // The volume belongs to whom the program runs as.
    let state = image.iter().find(|(_, rest)| rest.ends_with(" /state")).unwrap();
    assert!(state.1.contains(&format!("--chown={} ", only("USER"))), "{}", state.1);
    assert!(configuration().contains("state_dir: /state\n"));

    let channel = read("rust-toolchain.toml");
    let channel = channel.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap();
    let channel = channel.trim_matches('"');
    assert_eq!(build[0].1, format!("rust:{channel}-bookworm AS build"));
    assert!(
        build.contains(&("ENV".to_owned(), format!("RUSTUP_TOOLCHAIN={channel}"))),
        "{build:?}"
    );
    // Linked by musl-gcc, it would look for a loader that an empty image has not.
    assert!(build.iter().all(|(word, rest)| word != "ENV" || !rest.contains("LINKER")));
    let features = build.iter().find(|(word, _)| word == "ARG").unwrap();
    let feature = features.1.trim_matches('"').rsplit(' ').next().unwrap();
    assert!(read("Cargo.toml").contains(&format!("\n{feature} = [")), "{feature}");
}

#[test]
fn what_the_image_is_built_from_is_let_through() {
    let ignored = read(".dockerignore");
    let mut lines = ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "all is left out but for what is named");
    let named: Vec<&str> = lines.map(|line| line.strip_prefix('!').unwrap()).collect();
    for name in &named {
        assert!(root().join(name).exists(), "{name}");
    }
    let passes = |path: &str| named.iter().any(|name| Path::new(path).starts_with(name));
    let mut needed = vec!["Cargo.toml".to_owned(), "Cargo.lock".to_owned()];
    for (word, rest) in instructions() {
        if word == "COPY" && !rest.contains("--from=") && rest != ". ." {
            needed.push(rest.split(' ').next().unwrap().to_owned());
        }
    }
    // Files that the source takes in, and those that Cargo.toml names.
    for part in [read("src/pack.rs"), read("src/config.rs")] {
        let taken = part.split("include_str!(\"../").skip(1);
        needed.extend(taken.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    for line in read("Cargo.toml").lines() {
        needed.extend(line.strip_prefix("path = ").map(|path| path.trim_matches('"').to_owned()));
    }
    assert!(needed.len() > 6, "{needed:?}");
    for path in needed {
        assert!(passes(&path), "{path} does not reach the build");
        assert!(root().join(&path).exists(), "{path}");
    }
    for kept in
        ["target/debug/portcullis", ".git/config", "README.md", "fixtures/x", "state/portcullis.db"]
    {
        assert!(!passes(kept), "{kept} goes into every build");
    }
}

#[test]
fn railway_is_told_a_path_that_answers_without_a_token() {
    let config: serde_json::Value = serde_json::from_str(&read("railway.json")).unwrap();
    let path = config["deploy"]["healthcheckPath"].as_str().unwrap();
    assert_eq!(routes::find("GET", path).map(|route| route.need), Some(Need::Nothing), "{path}");
    assert!(root().join(config["build"]["dockerfilePath"].as_str().unwrap()).is_file());
    assert_eq!(config["build"]["builder"], "DOCKERFILE");
    assert_eq!(config["deploy"]["restartPolicyType"], "ALWAYS");
}
