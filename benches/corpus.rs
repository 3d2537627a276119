//! The files that are read: made once, kept under the target folder, checked for their size.

use super::mix::{Mix, SEED};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A file of a mix.
pub struct Corpus {
    pub path: PathBuf,
    pub lines: u64,
    /// Of the text, unpacked.
    pub bytes: u64,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Zstd => "zst",
        }
    }

    /// Reads what is packed in `file`, with the library and the block size of the program.
    pub fn unpacked(self, file: File) -> io::Result<Box<dyn Read>> {
        let packed = io::BufReader::with_capacity(256 * 1024, file);
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        })
    }
}

/// The plain file of `mix`.
///
/// # Errors
/// When it cannot be written.
pub fn plain(mix: Mix, lines: u64) -> io::Result<Corpus> {
    let plain = made(mix, lines)?;
    Ok(Corpus { path: read_anew(plain.path)?, ..plain })
}

fn made(mix: Mix, lines: u64) -> io::Result<Corpus> {
    let path = kept(&name(mix, lines, "jsonl"), |out| mix.write(lines, out))?;
    let bytes = fs::metadata(&path)?.len();
    Ok(Corpus { path, lines, bytes })
}

/// The file of `mix`, packed.
///
/// # Errors
/// When it cannot be written.
pub fn packed(mix: Mix, lines: u64, packing: Packing) -> io::Result<Corpus> {
    let plain = made(mix, lines)?;
    let name = name(mix, lines, &format!("jsonl.{}", packing.extension()));
    let path = kept(&name, |out| {
        let mut from = File::open(&plain.path)?;
        match packing {
            Packing::Gzip => {
                let mut to = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                io::copy(&mut from, &mut to)?;
                to.finish().map(|_| ())
            }
            Packing::Zstd => zstd::stream::copy_encode(from, out, 3),
        }
    })?;
    Ok(Corpus { path: read_anew(path)?, ..plain })
}

/// Gives the file up in the page cache and reads it again. What a program has just written lies there in single
/// pages, of which the kernel copies a gigabyte in 0.2 s; an archive that is read from a disk lies
/// there in large pieces, of which it does so in 0.1 s.
fn read_anew(path: PathBuf) -> io::Result<PathBuf> {
    let mut file = File::open(&path)?;
    // Only what is on the disk can be given up.
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut block = vec![0; 1 << 20];
    while file.read(&mut block)? > 0 {}
    Ok(path)
}

/// Named after its own beginning too: a changed generator makes new files.
fn name(mix: Mix, lines: u64, extension: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(SEED.to_le_bytes());
    digest.update(mix.text(1_000));
    let digest = digest.finalize();
    format!("{}-{lines}-{:02x}{:02x}.{extension}", mix.name(), digest[0], digest[1])
}

fn folder() -> PathBuf {
    std::env::var_os("PORTCULLIS_BENCH_DATA").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-data"),
        PathBuf::from,
    )
}

/// The file of that name, made if it is not there or not as long as it was.
fn kept(
    name: &str,
    make: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let (path, length) = (folder.join(name), folder.join(format!("{name}.length")));
    let noted = fs::read_to_string(&length).ok().and_then(|text| text.trim().parse().ok());
    if noted.is_some() && noted == fs::metadata(&path).ok().map(|meta| meta.len()) {
        return Ok(path);
    }
    eprintln!("making {}", path.display());
    let partial = folder.join(format!("{name}.partial"));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
    make(&mut out)?;
    out.flush()?;
    fs::rename(&partial, &path)?;
    fs::write(&length, format!("{}\n", fs::metadata(&path)?.len()))?;
    Ok(path)
}
