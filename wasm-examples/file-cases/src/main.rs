//! Tries what files must do by WASI 0.2, and prints what came of it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use file_cases::{Answer, How, Kind, Node, Stat};
use wasip2::clocks::wall_clock::Datetime;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, NewTimestamp,
    OpenFlags, PathFlags,
};

fn main() {
    let Some((root, _)) = get_directories().into_iter().next() else {
        return println!("there is no directory");
    };
    let root = File(root);
    // Nothing that is done here waits but in a call.
    let mut run = pin!(file_cases::run(&root));
    match run.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lines) => println!("{}", lines.join("\n")),
        Poll::Pending => println!("it waits"),
    }
}

/// One of WASI 0.2.
struct File(Descriptor);

fn name(code: ErrorCode) -> String {
    let words = code.name().split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    });
    words.collect()
}

fn kind(of: DescriptorType) -> Kind {
    match of {
        DescriptorType::Directory => Kind::Directory,
        DescriptorType::RegularFile => Kind::File,
        DescriptorType::SymbolicLink => Kind::Link,
        _ => Kind::Other,
    }
}

fn told(stat: DescriptorStat) -> Stat {
    let modified = stat.data_modification_timestamp;
    let modified = modified.map(|time| (i64::try_from(time.seconds), time.nanoseconds));
    let (seconds, nanoseconds) = modified.unwrap_or((Ok(0), 0));
    Stat {
        kind: kind(stat.type_),
        links: stat.link_count,
        size: stat.size,
        modified: (seconds.unwrap_or_default(), nanoseconds),
    }
}

impl Node for File {
    async fn open(&self, path: &str, how: How) -> Answer<Self> {
        let mut follow = PathFlags::empty();
        follow.set(PathFlags::SYMLINK_FOLLOW, how.follow);
        let mut open = OpenFlags::empty();
        open.set(OpenFlags::CREATE, how.create);
        open.set(OpenFlags::EXCLUSIVE, how.exclusive);
        open.set(OpenFlags::TRUNCATE, how.truncate);
        open.set(OpenFlags::DIRECTORY, how.directory);
        let mut flags = DescriptorFlags::READ;
        flags.set(DescriptorFlags::WRITE, how.write);
        let opened = self.0.open_at(follow, path, open, flags);
        opened.map(Self).map_err(name)
    }

    async fn read(&self, at: u64) -> Answer<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let from = at + all.len() as u64;
            let (piece, is_end) = self.0.read(64 << 10, from).map_err(name)?;
            if piece.is_empty() || is_end {
                all.extend(piece);
                return Ok(all);
            }
            all.extend(piece);
        }
    }

    async fn write(&self, at: Option<u64>, mut data: &[u8]) -> Answer<()> {
        let Some(mut at) = at else {
            let stream = self.0.append_via_stream().map_err(name)?;
            let written = stream.blocking_write_and_flush(data);
            return written.map_err(|error| error.to_string());
        };
        while !data.is_empty() {
            let written = self.0.write(data, at).map_err(name)?;
            at += written;
            data = &data[usize::try_from(written).unwrap_or(data.len())..];
        }
        Ok(())
    }

    async fn stat(&self) -> Answer<Stat> {
        self.0.stat().map(told).map_err(name)
    }

    async fn stat_at(&self, path: &str) -> Answer<Stat> {
        let stat = self.0.stat_at(PathFlags::empty(), path);
        stat.map(told).map_err(name)
    }

    async fn set_size(&self, size: u64) -> Answer<()> {
        self.0.set_size(size).map_err(name)
    }

    async fn set_modified(&self, path: &str, time: Option<(i64, u32)>) -> Answer<()> {
        let time = time.map_or(NewTimestamp::Now, |(seconds, nanoseconds)| {
            NewTimestamp::Timestamp(Datetime {
                seconds: seconds.unsigned_abs(),
                nanoseconds,
            })
        });
        let accessed = NewTimestamp::NoChange;
        self.0
            .set_times_at(PathFlags::empty(), path, accessed, time)
            .map_err(name)
    }

    async fn list(&self) -> Answer<Vec<(String, Kind)>> {
        let stream = self.0.read_directory().map_err(name)?;
        let mut all = Vec::new();
        while let Some(entry) = stream.read_directory_entry().map_err(name)? {
            all.push((entry.name, kind(entry.type_)));
        }
        Ok(all)
    }

    async fn sync(&self) -> Answer<()> {
        self.0.sync().map_err(name)?;
        self.0.sync_data().map_err(name)
    }

    async fn make_dir(&self, path: &str) -> Answer<()> {
        self.0.create_directory_at(path).map_err(name)
    }

    async fn remove_dir(&self, path: &str) -> Answer<()> {
        self.0.remove_directory_at(path).map_err(name)
    }

    async fn unlink(&self, path: &str) -> Answer<()> {
        self.0.unlink_file_at(path).map_err(name)
    }

    async fn rename(&self, path: &str, to: &str) -> Answer<()> {
        self.0.rename_at(path, &self.0, to).map_err(name)
    }

    async fn link(&self, path: &str, to: &str) -> Answer<()> {
        let linked = self.0.link_at(PathFlags::empty(), path, &self.0, to);
        linked.map_err(name)
    }

    async fn symlink(&self, target: &str, path: &str) -> Answer<()> {
        self.0.symlink_at(target, path).map_err(name)
    }

    async fn read_link(&self, path: &str) -> Answer<String> {
        self.0.readlink_at(path).map_err(name)
    }

    async fn is_same(&self, other: &Self) -> bool {
        self.0.is_same_object(&other.0)
    }
}
