//! Reads a regular file completely, and once: bounded, never blocking, and not while it changes.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat, StatxAttributes, StatxFlags, fstat, statx};
use rustix::io::{Errno, read, retry_on_intr};
use zeroize::Zeroizing;

use super::arm::FileId;
use super::resolve::{Leaf, open_file};

/// The result of reading a file.
#[allow(
    clippy::large_enum_variant,
    reason = "it is matched immediately, and nearly always the large variant"
)]
pub(super) enum Slurped {
    /// Its content, and its state, which was the same before and after.
    Whole {
        bytes: Zeroizing<Vec<u8>>,
        stat: Stat,
        /// Whether it has other names that it can be written under.
        shared: bool,
        /// The open file.
        file: OwnedFd,
    },
    /// It has more bytes than allowed.
    TooLarge,
    /// It changed while it was read, or is not the file that was examined.
    Raced,
}

/// Reads the file at `leaf`, which was a regular file.
pub(super) fn slurp(leaf: &mut Leaf, limit: usize) -> Result<Slurped, Errno> {
    let (fd, before) = match leaf.opened.take() {
        Some(fd) => (fd, leaf.stat),
        None => match open_file(&leaf.folder, &leaf.name) {
            Ok(opened) => opened,
            Err(Errno::LOOP | Errno::NOENT | Errno::NXIO) => return Ok(Slurped::Raced),
            Err(error) => return Err(error),
        },
    };
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile
        || FileId::of(&before) != FileId::of(&leaf.stat)
    {
        return Ok(Slurped::Raced);
    }
    let size = usize::try_from(before.st_size).unwrap_or(usize::MAX);
    if size > limit {
        return Ok(Slurped::TooLarge);
    }
    // Content that a server or the kernel generates may have another size.
    let is_exact =
        !leaf.folder.as_dir().remote && FileId::of(&before).device == leaf.folder.id().device;
    let Some(bytes) = read_up_to(limit, size, is_exact, |buffer| {
        retry_on_intr(|| read(&fd, &mut *buffer))
    })?
    else {
        return Ok(Slurped::TooLarge);
    };
    let Some(mounted) = unchanged(&fd, &before)? else {
        return Ok(Slurped::Raced);
    };
    Ok(Slurped::Whole {
        bytes,
        shared: before.st_nlink > 1 || mounted,
        file: fd,
        stat: before,
    })
}

/// `None` if the open file differs from `before`; otherwise whether the file itself is a mount point, as container
/// engines mount single files.
fn unchanged(fd: &OwnedFd, before: &Stat) -> Result<Option<bool>, Errno> {
    match statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS) {
        Ok(after) => {
            let times = [after.stx_mtime, after.stx_ctime];
            let now = times.map(|time| (i128::from(time.tv_sec), i128::from(time.tv_nsec)));
            let is_same = now == times_of(before) && i128::from(after.stx_size) == size_of(before);
            Ok(is_same.then(|| after.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)))
        }
        // If a sandbox does not allow this call, the file counts as not mounted.
        Err(Errno::NOSYS | Errno::PERM) => {
            let after = fstat(fd)?;
            let is_same =
                times_of(&after) == times_of(before) && size_of(&after) == size_of(before);
            Ok(is_same.then_some(false))
        }
        Err(error) => Err(error),
    }
}

/// When the content and the state last changed: seconds and nanoseconds, whatever their widths here.
#[allow(clippy::unnecessary_cast)]
fn times_of(stat: &Stat) -> [(i128, i128); 2] {
    [
        (stat.st_mtime as i128, stat.st_mtime_nsec as i128),
        (stat.st_ctime as i128, stat.st_ctime_nsec as i128),
    ]
}

fn size_of(stat: &Stat) -> i128 {
    i128::from(stat.st_size)
}

/// Reads to the end, or returns `None` if there are more than `limit` bytes. About `size` bytes are expected.
/// Unless it `is_exact`, the size may be wrong, as for files in /proc.
fn read_up_to(
    limit: usize,
    size: usize,
    is_exact: bool,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Result<Option<Zeroizing<Vec<u8>>>, Errno> {
    // One byte more than expected, so that the end is found without growing the buffer.
    let mut bytes = Zeroizing::new(vec![0; size.min(limit) + 1]);
    let mut filled = 0;
    loop {
        match read(&mut bytes[filled..])? {
            0 => break,
            count => filled += count,
        }
        if filled > limit {
            return Ok(None);
        }
        // The buffer was not filled, so this is the end.
        if is_exact && filled == size {
            break;
        }
        if filled == bytes.len() {
            // A vector that grows by itself leaves its old content unwiped.
            let room = (bytes.len() * 2).max(4096).min(limit + 1);
            let mut larger = Zeroizing::new(vec![0; room]);
            larger[..filled].copy_from_slice(&bytes);
            bytes = larger;
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `length` bytes in pieces of `piece` when `size` are expected.
    fn read_pieces(limit: usize, size: usize, length: usize, piece: usize) -> Option<Vec<u8>> {
        let source: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let mut at = 0;
        let bytes = read_up_to(limit, size, false, |buffer| {
            let count = piece.min(buffer.len()).min(length - at);
            buffer[..count].copy_from_slice(&source[at..at + count]);
            at += count;
            Ok(count)
        });
        bytes.unwrap().map(|bytes| {
            assert_eq!(*bytes, source);
            bytes.to_vec()
        })
    }

    #[test]
    fn a_file_of_any_size_is_read_completely_whatever_size_is_reported() {
        for length in [0, 1, 2, 4095, 4096, 4097, 10_000] {
            for size in [0, 1, length, length + 1, 20_000] {
                for piece in [1, 7, 4096, 100_000] {
                    let bytes = read_pieces(10_000, size, length, piece);
                    assert_eq!(bytes.map(|bytes| bytes.len()), Some(length));
                }
            }
        }
    }

    #[test]
    fn only_its_bytes_make_a_file_too_large() {
        for size in [0, 10, 100] {
            assert_eq!(read_pieces(10, size, 11, 3), None);
            assert!(read_pieces(10, size, 10, 3).is_some());
        }
    }

    #[test]
    fn an_exact_size_saves_the_read_of_the_end_and_hides_no_growth() {
        let read = |lengths: &[usize]| {
            let mut lengths = lengths.iter();
            let mut reads = 0;
            let bytes = read_up_to(100, 10, true, |buffer| {
                reads += 1;
                Ok(lengths
                    .next()
                    .map_or(0, |length| *length.min(&buffer.len())))
            });
            (bytes.unwrap().map(|bytes| bytes.len()), reads)
        };
        assert_eq!(read(&[10]), (Some(10), 1));
        assert_eq!(read(&[4, 6]), (Some(10), 2));
        assert_eq!(read(&[11, 2]), (Some(13), 3));
        assert_eq!(read(&[9]), (Some(9), 2));
    }

    #[test]
    fn an_error_is_passed_on() {
        let read = read_up_to(10, 5, true, |_| Err(Errno::IO));
        assert_eq!(read.err(), Some(Errno::IO));
    }
}
