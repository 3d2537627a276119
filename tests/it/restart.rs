//! `kill -9` at any moment: what comes out in the end is what comes out of one run that nothing
//! disturbed. The longer it is tried the more moments are met: `KILL_ROUNDS` sets how
//! often, `KILL_SEED` with what.

use crate::service::{
    Dice, RULES, Running, SECOND, START, Service, assert_same, busy, config, id, login, number,
    replayed, until,
};
use portcullis::state::Db;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LOG: &str = "app.log";
const ACTIONS: &str = "actions.jsonl";

/// How rotated files are named.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// `app.log.1` is the newest, as logrotate has it.
    Shifted,
    /// The newest has the highest number, as dates have it.
    Rising,
}

/// Writes lines in torn pieces, and rotates.
struct Writer<'l> {
    file: File,
    lines: &'l [String],
    next: usize,
    /// The rest of a piece.
    torn: Vec<u8>,
    names: Names,
    rotations: usize,
}

impl<'l> Writer<'l> {
    fn new(service: &Service, lines: &'l [String], names: Names) -> Self {
        Self { file: open(service), lines, next: 0, torn: Vec::new(), names, rotations: 0 }
    }

    /// Writes the rest of the piece before and a part of the next, up to line `end`.
    fn piece(&mut self, dice: &mut Dice, end: usize) {
        self.whole();
        let end = end.min(self.lines.len()).min(self.next + 1 + dice.below(40));
        let Some(lines) = self.lines.get(self.next..end) else { return };
        let mut bytes: Vec<u8> =
            lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
        self.next = end;
        self.torn = bytes.split_off(dice.below(bytes.len() + 1));
        self.file.write_all(&bytes).unwrap();
    }

    fn whole(&mut self) {
        self.file.write_all(&self.torn).unwrap();
        self.torn.clear();
    }

    fn rotate(&mut self, service: &Service, dice: &mut Dice) {
        let early = dice.percent(50);
        if early {
            self.whole();
        }
        self.rotations += 1;
        let name = |number: usize| service.path(&format!("{LOG}.{number}"));
        match self.names {
            Names::Shifted => {
                for number in (1..self.rotations).rev() {
                    fs::rename(name(number), name(number + 1)).unwrap();
                }
                fs::rename(service.path(LOG), name(1)).unwrap();
            }
            Names::Rising => fs::rename(service.path(LOG), name(self.rotations)).unwrap(),
        }
        // Whoever writes is told after it was renamed.
        self.whole();
        self.file = open(service);
        if matches!(self.names, Names::Rising) {
            // Two that were written last in the same tick of the system's clock would look as if the
            // one with the higher number were the older.
            std::thread::sleep(Duration::from_millis(15));
        }
    }

    fn all(&mut self, dice: &mut Dice) {
        while self.next < self.lines.len() {
            self.piece(dice, usize::MAX);
        }
        self.whole();
    }
}

fn open(service: &Service) -> File {
    OpenOptions::new().create(true).append(true).open(service.path(LOG)).unwrap()
}

/// What happens to a service.
#[derive(Debug, Clone, Copy)]
struct Ordeal {
    rounds: usize,
    seed: u64,
    names: Names,
    /// What the power takes from the file of the sink: any bytes that were not yet known to be on disk.
    power: bool,
}

impl Ordeal {
    fn new(rounds: usize) -> Self {
        let all = number("KILL_ROUNDS", 300);
        let seed = number("KILL_SEED", 1) as u64;
        let rounds = (rounds * all / 300).max(1);
        println!("{rounds} rounds, seed {seed}");
        Self { rounds, seed, names: Names::Shifted, power: false }
    }

    /// Lets it all happen, and compares.
    fn against(self, settings: &str) {
        let mut dice = Dice(self.seed);
        let lines = busy(&mut dice, self.rounds * 60 + 3000);
        let settings = config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\ncheckpoint: 1s\n\
             brakes: {{ max_blocks_per_minute: 3 }}\nsinks:\n  - file: {{ path: {ACTIONS} }}\n{settings}"
        ));
        let mut service = Service::new(&settings, RULES);
        let mut writer = Writer::new(&service, &lines, self.names);
        // A file that is rotated away before anything of it lasts is one that nobody has heard of.
        let mut running = service.start();
        writer.piece(&mut dice, 20);
        writer.whole();
        until(|| running.goes_on() && service.has_read(LOG), &|| "nothing lasts".into());
        running.kill();
        let mut stopped = 0;
        for round in 0..self.rounds {
            let running = service.start();
            // Snapshots are a second apart.
            let time = if dice.percent(3) { 1500 } else { dice.below(150) };
            let (start, time) = (Instant::now(), Duration::from_millis(time as u64));
            let end = writer.next + dice.below(120);
            while start.elapsed() < time {
                writer.piece(&mut dice, end.min(lines.len() - 2000));
                if dice.below(1000) < 6 {
                    writer.rotate(&service, &mut dice);
                }
                std::thread::sleep(Duration::from_micros(dice.below(6000) as u64));
            }
            if dice.percent(8) {
                stopped += 1;
                stop_early(running);
            } else {
                running.kill();
            }
            while dice.percent(12) {
                writer.rotate(&service, &mut dice);
                writer.piece(&mut dice, lines.len() - 2000);
            }
            if self.power {
                power_loss(&service, &mut dice, round);
            }
        }
        writer.all(&mut dice);
        println!("{} lines, {} rotations, {stopped} stops", lines.len(), writer.rotations);
        let said = service.catch_up(LOG);
        service.verify();

        let mut undisturbed = Service::new(&settings, RULES);
        undisturbed.append(LOG, &lines.iter().map(|line| format!("{line}\n")).collect::<String>());
        undisturbed.catch_up(LOG);
        let want = undisturbed.lines(ACTIONS);
        assert_same(&want, &replayed(&undisturbed, &lines), "a run against a replay");
        assert!(want.len() > lines.len() / 20, "{} lines give {}", lines.len(), want.len());
        let got = service.lines(ACTIONS);
        assert_same(&got, &want, &format!("{self:?}\n{said}"));
        assert_eq!(service.decisions(), undisturbed.decisions());
        println!("{} actions", want.len());
    }
}

/// Ends it by SIGTERM, at a moment at which it may not yet listen.
fn stop_early(mut running: Running) {
    running.signal("TERM");
    let status = running.wait();
    let code = status.code();
    assert!(code == Some(143) || code.is_none(), "{status:?}: {}", running.said());
}

/// Takes from the sink's file what need not be on disk; at times half a line comes there instead.
fn power_loss(service: &Service, dice: &mut Dice, round: usize) {
    let Ok(db) = Db::read_only(&service.state()) else { return };
    let cursors = db.cursors().unwrap();
    let Some((_, cursor)) = cursors.iter().find(|(name, _)| name.contains(ACTIONS)) else { return };
    let bytes = fs::read(service.path(ACTIONS)).unwrap();
    let kept = match db.actions_after(cursor - 1, 1).unwrap().first() {
        Some(action) if *cursor > 0 => {
            let at = memchr::memmem::rfind(&bytes, action.line.as_bytes());
            at.unwrap_or_else(|| panic!("action {cursor} is known to be on disk"))
                + action.line.len()
                + 1
        }
        _ => 0,
    };
    let mut bytes = bytes[..kept + dice.below(bytes.len() - kept + 1)].to_vec();
    if bytes.len() == kept && dice.percent(50) {
        bytes.extend(&br#"{"schema":1,"id":"0123456789abcdef","decis"#[..dice.below(42)]);
    }
    if round.is_multiple_of(7) && kept == 0 {
        bytes.clear();
    }
    fs::write(service.path(ACTIONS), bytes).unwrap();
}

#[test]
fn killed_at_any_moment_it_says_what_an_undisturbed_run_says() {
    Ordeal::new(300).against("threads: 1\n");
}

#[test]
fn killed_with_two_threads_and_small_blocks_it_says_the_same() {
    let ordeal = Ordeal { names: Names::Rising, ..Ordeal::new(120) };
    ordeal.against("threads: 2\nblock: 512\n");
}

#[test]
fn what_the_power_takes_from_the_file_of_a_sink_is_written_again() {
    let ordeal = Ordeal { power: true, ..Ordeal::new(120) };
    ordeal.against("threads: 1\nblock: 4096\n");
}

/// Events that were taken in after a row of the journal, and the last row.
fn journalled(service: &Service, row: i64) -> (u64, i64) {
    let Ok(db) = Db::read_only(&service.state()) else { return (0, row) };
    let (mut events, mut last) = (0, row);
    db.journal_after(row, &mut |row| {
        events += row.events;
        last = row.id;
        Ok(())
    })
    .unwrap();
    (events, last)
}

/// From standard input what was read and not yet made to last is lost. What lasted is a beginning of
/// what was read, and everything that follows from it comes out, at least once.
#[test]
fn of_standard_input_what_lasted_is_not_lost() {
    let ordeal = Ordeal::new(100);
    let mut dice = Dice(ordeal.seed);
    let all = busy(&mut dice, ordeal.rounds * 120 + 3000);
    // Each line is one event.
    let lines: Vec<String> = all
        .into_iter()
        .filter(|line| line.contains("_LOGIN: ") || line.contains("VIOLATION"))
        .collect();
    let settings = config(&format!(
        "state_dir: ./state\ncheckpoint: 1h\nthreads: 1\nsinks:\n  - stdout: {{ output: json }}\n  - file: {{ path: {ACTIONS} }}\n"
    ));
    let mut service = Service::new(&settings, RULES);
    let (mut next, mut row) = (0, 0);
    let mut lasted: Vec<String> = Vec::new();
    for round in 0..=ordeal.rounds {
        let (mut command, out, said) = service.command();
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        let mut running = Running::new(child, out, said);
        let last = round == ordeal.rounds;
        let start = Instant::now();
        let time = Duration::from_millis(dice.below(150) as u64);
        let mut sent = next;
        while last || start.elapsed() < time {
            let end = (sent + dice.below(30)).min(lines.len());
            let piece: String = lines[sent..end].iter().map(|line| format!("{line}\n")).collect();
            if let Err(error) = pipe.write_all(piece.as_bytes()) {
                panic!("{error}: {}", running.said());
            }
            sent = end;
            if sent == lines.len() {
                break;
            }
            if !last {
                std::thread::sleep(Duration::from_micros(dice.below(9000) as u64));
            }
        }
        if last || dice.percent(5) {
            // An input that ends is taken in to its end.
            drop(pipe);
            running.wait();
        } else {
            running.kill();
        }
        let (events, last) = journalled(&service, row);
        let taken = usize::try_from(events).unwrap();
        assert!(taken <= sent - next, "{taken} of {}", sent - next);
        lasted.extend_from_slice(&lines[next..next + taken]);
        row = last;
        // What was lost is sent again, or not.
        next = if dice.percent(50) { next + taken } else { sent };
    }
    println!("{} of {} lines lasted", lasted.len(), lines.len());
    assert!(lasted.len() > lines.len() / 2);
    service.verify();
    let want = replayed(&service, &lasted);
    assert_same(&service.lines(ACTIONS), &want, "the file");
    // Standard output is told at least once, each round from where it was left off.
    let mut told = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for round in 1..=ordeal.rounds + 1 {
        for line in service.lines(&format!("stdout.{round}")) {
            if seen.insert(id(&line)) {
                told.push(line);
            }
        }
    }
    assert_same(&told, &want, "standard output");
}

/// Answers every request on `listener` with 204, and notes the ids that came.
fn receive(listener: TcpListener, ids: Arc<Mutex<BTreeSet<String>>>) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            let whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request).to_lowercase();
                let (head, body) = text.split_once("\r\n\r\n")?;
                let value = |name: &str| {
                    let line = head.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim().to_owned())
                };
                let length: usize = value("content-length:")?.parse().ok()?;
                (body.len() >= length).then(|| value("webhook-id:")).flatten()
            };
            while whole(&request).is_none() {
                match stream.read(&mut piece) {
                    Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                    _ => break,
                }
            }
            ids.lock().unwrap().extend(whole(&request));
            let _gone = stream.write_all(
                b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
        }
    });
}

#[test]
fn what_waits_for_a_sink_that_is_away_waits_over_restarts_and_kills() {
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = place.local_addr().unwrap();
    drop(place);
    let settings = config(&format!(
        "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\nsinks:\n\
         \x20 - file: {{ path: {ACTIONS} }}\n  - webhook: {{ url: 'http://{address}/', form: json }}\n"
    ));
    let mut service = Service::new(&settings, RULES);
    let lines = busy(&mut Dice(7), 400);
    service.append(LOG, &(lines[..200].join("\n") + "\n"));
    let said = service.catch_up(LOG);
    assert!(said.contains("its lines wait"), "{said}");
    // One that ends in order, one that is killed, and lines between them.
    let said = service.catch_up(LOG);
    assert!(!said.contains("no longer configured"), "{said}");
    let mut running = service.start();
    service.append(LOG, &(lines[200..].join("\n") + "\n"));
    until(|| running.goes_on() && service.has_read(LOG), &|| "not all is read".into());
    running.kill();
    let ids = Arc::new(Mutex::new(BTreeSet::new()));
    receive(TcpListener::bind(address).unwrap(), Arc::clone(&ids));
    let mut running = service.start();
    // The file may have to be given what the kill took from it.
    let wanted =
        || -> BTreeSet<String> { service.lines(ACTIONS).iter().map(|line| id(line)).collect() };
    until(|| running.goes_on() && wanted().len() > 50 && *ids.lock().unwrap() == wanted(), &|| {
        format!("{} of {}", ids.lock().unwrap().len(), wanted().len())
    });
    running.stop();
    assert_eq!(*ids.lock().unwrap(), wanted());
    // What was confirmed is not told again.
    ids.lock().unwrap().clear();
    service.catch_up(LOG);
    assert_eq!(ids.lock().unwrap().len(), 0);
}

/// The first records of a stream are no clock, and after a restart the wall clock is none either.
#[test]
fn what_began_before_there_was_a_clock_does_not_end_at_a_restart() {
    let rule = "per: ip, when: count >= 2 within 1h, then: block for 24h";
    let mut service = Service::new(
        &config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\nsinks:\n  - file: {{ path: {ACTIONS} }}\n"
        )),
        &format!("pack: own\nrules:\n  - {{ id: few, title: t, on: FAILED_LOGIN, {rule} }}\n"),
    );
    for second in 0..2 {
        service.append(LOG, &(login(START + second * SECOND, "203.0.113.7", "u") + "\n"));
    }
    service.catch_up(LOG);
    assert_eq!(service.lines(ACTIONS).len(), 1);
    let mut running = service.start();
    running.wait_until_it_says(": following");
    // It looks several times a second whether something is over.
    std::thread::sleep(Duration::from_millis(1500));
    running.stop();
    assert_eq!(service.lines(ACTIONS).len(), 1, "{:?}", service.lines(ACTIONS));
}

/// Whoever puts an older copy of the state in its place reads the log again from there.
#[test]
fn a_state_that_was_set_back_doubles_no_line_of_a_file() {
    let mut service = Service::new(
        &config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\nsinks:\n  - file: {{ path: {ACTIONS} }}\n"
        )),
        RULES,
    );
    let lines = busy(&mut Dice(7), 3000);
    let write =
        |service: &Service, lines: &[String]| service.append(LOG, &(lines.join("\n") + "\n"));
    write(&service, &lines[..1000]);
    service.catch_up(LOG);
    let copy = service.path("copy");
    let all = |from: &std::path::Path, to: &std::path::Path| {
        fs::create_dir_all(to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    all(&service.state(), &copy);
    write(&service, &lines[1000..2000]);
    service.catch_up(LOG);
    let before = service.lines(ACTIONS).len();
    fs::remove_dir_all(service.state()).unwrap();
    all(&copy, &service.state());
    write(&service, &lines[2000..]);
    let said = service.catch_up(LOG);
    assert!(said.contains("lines that the state directory does not know"), "{said}");
    let got = service.lines(ACTIONS);
    let different: BTreeSet<&String> = got.iter().collect();
    assert!(
        got.len() > before && different.len() == got.len(),
        "{} {}",
        got.len(),
        different.len()
    );
    assert_same(&got, &replayed(&service, &lines), "set back");
}
