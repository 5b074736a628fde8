//! An asynchronous command that does with files what there is to do: writes and appends by streams, reads, lists, and asks for what is
//! not there. Fails if it has no files.

use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wasip3::{wit_bindgen, wit_stream};

struct Files;

async fn open(dir: &Descriptor, name: &str, flags: OpenFlags) -> Result<Descriptor, ErrorCode> {
    let how = DescriptorFlags::READ | DescriptorFlags::WRITE;
    dir.open_at(PathFlags::empty(), name.to_owned(), flags, how)
        .await
}

async fn work(dir: &Descriptor) -> Result<(), ErrorCode> {
    let file = open(dir, "file", OpenFlags::CREATE).await?;
    let (mut out, data) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        out.write_all(b"hello".to_vec()).await;
    });
    file.write_via_stream(data, 0).await?;
    let (mut out, data) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        out.write_all(b", and more".to_vec()).await;
    });
    file.append_via_stream(data).await?;
    let (data, end) = file.read_via_stream(0);
    let bytes = data.collect().await;
    end.await?;
    println!("read: {}", String::from_utf8_lossy(&bytes));
    println!("{} bytes", file.stat().await?.size);
    let (entries, end) = dir.read_directory();
    let entries = entries.collect().await;
    end.await?;
    let names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    println!("{names:?}");
    if let Err(error) = open(dir, "absent", OpenFlags::empty()).await {
        println!("absent: {error:?}");
    }
    Ok(())
}

impl wasip3::exports::cli::run::Guest for Files {
    async fn run() -> Result<(), ()> {
        let (dir, name) = preopens::get_directories().pop().ok_or(())?;
        println!("opened {name}");
        work(&dir).await.map_err(|error| println!("{error:?}"))
    }
}

wasip3::cli::command::export!(Files);
