//! What the tests share: running the binary, and streams of lines.
#![allow(dead_code, reason = "each test module uses some of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The built binary.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_portcullis")
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A command of the binary in a folder of its own, so that no configuration is found by chance.
pub fn portcullis(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(folder).env_remove("PORTCULLIS_CONFIG").env("NO_COLOR", "1");
    command
}

/// Runs the binary in a fresh folder with `input` piped in.
pub fn run(args: &[&str], input: &[u8]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), args, input)
}

/// Starts the binary in `folder` with a pipe at each end.
pub fn piped(folder: &Path, args: &[&str]) -> Child {
    portcullis(folder)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs the binary in `folder` with `input` piped in.
pub fn run_in(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = piped(folder, args);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // The binary may end before it has read everything.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `n` failed logins from one address, `every_s` seconds apart, as the home case writes them.
pub fn failed_logins(n: usize, every_s: usize, ip: &str) -> String {
    (0..n)
        .map(|i| {
            let time = portcullis::decode::time::format(
                1_754_260_200_000_000 + i64::try_from(i * every_s).unwrap() * 1_000_000,
            );
            format!(
                r#"{{"timestamp":"{time}","level":"WARNING","logger":"security","message":"FAILED_LOGIN: email=user{i}@example.org, ip={ip}, reason=invalid_password","module":"auth","function":"login","line":42,"request_id":"r-{i}"}}"#
            ) + "\n"
        })
        .collect()
}
