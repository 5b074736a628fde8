//! Tries what files must do by WASI 0.3, and prints what came of it.

use file_cases::{Answer, How, Kind, Node, Stat};
use wasip3::clocks::system_clock::Instant;
use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, NewTimestamp,
    OpenFlags, PathFlags,
};
use wasip3::wit_bindgen::spawn_local;
use wasip3::wit_stream;

struct Program;

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        let (mut output, text) = wit_stream::new();
        spawn_local(async move {
            let root = get_directories().into_iter().next();
            let lines = match root {
                Some((root, _)) => file_cases::run(&File(root)).await,
                None => vec!["there is no directory".to_owned()],
            };
            let text = lines.join("\n") + "\n";
            output.write_all(text.into_bytes()).await;
        });
        wasip3::cli::stdout::write_via_stream(text)
            .await
            .map_err(drop)
    }
}

wasip3::cli::command::export!(Program);

/// One of WASI 0.3.
struct File(Descriptor);

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
fn name(code: ErrorCode) -> String {
    let name = format!("{code:?}");
    name.rsplit(':').next().unwrap_or(&name).to_owned()
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped by it")]
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
    let modified = modified.map(|time| (time.seconds, time.nanoseconds));
    Stat {
        kind: kind(stat.type_),
        links: stat.link_count,
        size: stat.size,
        modified: modified.unwrap_or_default(),
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
        let opened = self.0.open_at(follow, path.to_owned(), open, flags);
        opened.await.map(Self).map_err(name)
    }

    async fn read(&self, at: u64) -> Answer<Vec<u8>> {
        let (stream, ended) = self.0.read_via_stream(at);
        let all = stream.collect().await;
        ended.await.map_err(name)?;
        Ok(all)
    }

    async fn write(&self, at: Option<u64>, data: &[u8]) -> Answer<()> {
        let (mut writer, stream) = wit_stream::new();
        let data = data.to_vec();
        spawn_local(async move {
            writer.write_all(data).await;
        });
        let written = match at {
            Some(at) => self.0.write_via_stream(stream, at),
            None => self.0.append_via_stream(stream),
        };
        written.await.map_err(name)
    }

    async fn stat(&self) -> Answer<Stat> {
        self.0.stat().await.map(told).map_err(name)
    }

    async fn stat_at(&self, path: &str) -> Answer<Stat> {
        let stat = self.0.stat_at(PathFlags::empty(), path.to_owned());
        stat.await.map(told).map_err(name)
    }

    async fn set_size(&self, size: u64) -> Answer<()> {
        self.0.set_size(size).await.map_err(name)
    }

    async fn set_modified(&self, path: &str, time: Option<(i64, u32)>) -> Answer<()> {
        let time = time.map_or(NewTimestamp::Now, |(seconds, nanoseconds)| {
            NewTimestamp::Timestamp(Instant {
                seconds,
                nanoseconds,
            })
        });
        let accessed = NewTimestamp::NoChange;
        let path = path.to_owned();
        let set = self
            .0
            .set_times_at(PathFlags::empty(), path, accessed, time);
        set.await.map_err(name)
    }

    async fn list(&self) -> Answer<Vec<(String, Kind)>> {
        let (stream, ended) = self.0.read_directory();
        let all = stream.collect().await.into_iter();
        let all = all.map(|entry| (entry.name, kind(entry.type_))).collect();
        ended.await.map_err(name)?;
        Ok(all)
    }

    async fn sync(&self) -> Answer<()> {
        self.0.sync().await.map_err(name)?;
        self.0.sync_data().await.map_err(name)
    }

    async fn make_dir(&self, path: &str) -> Answer<()> {
        self.0
            .create_directory_at(path.to_owned())
            .await
            .map_err(name)
    }

    async fn remove_dir(&self, path: &str) -> Answer<()> {
        self.0
            .remove_directory_at(path.to_owned())
            .await
            .map_err(name)
    }

    async fn unlink(&self, path: &str) -> Answer<()> {
        self.0.unlink_file_at(path.to_owned()).await.map_err(name)
    }

    async fn rename(&self, path: &str, to: &str) -> Answer<()> {
        let renamed = self.0.rename_at(path.to_owned(), &self.0, to.to_owned());
        renamed.await.map_err(name)
    }

    async fn link(&self, path: &str, to: &str) -> Answer<()> {
        let (path, to) = (path.to_owned(), to.to_owned());
        let linked = self.0.link_at(PathFlags::empty(), path, &self.0, to);
        linked.await.map_err(name)
    }

    async fn symlink(&self, target: &str, path: &str) -> Answer<()> {
        let made = self.0.symlink_at(target.to_owned(), path.to_owned());
        made.await.map_err(name)
    }

    async fn read_link(&self, path: &str) -> Answer<String> {
        self.0.readlink_at(path.to_owned()).await.map_err(name)
    }

    async fn is_same(&self, other: &Self) -> bool {
        self.0.is_same_object(&other.0).await
    }
}
