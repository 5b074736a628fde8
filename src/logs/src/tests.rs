use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use vaquita_runtime::LogStream;

use super::*;

fn key() -> PodKey {
    PodKey {
        namespace: "ns".to_owned(),
        name: "pod".to_owned(),
        uid: "uid".to_owned(),
    }
}

fn store(limits: LogLimits) -> (tempfile::TempDir, LogStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(&dir.path().join("logs"), limits).unwrap();
    (dir, store)
}

fn small(file_bytes: u64) -> LogLimits {
    LogLimits {
        file_bytes,
        files: 3,
    }
}

async fn collect(mut pieces: tokio::sync::mpsc::Receiver<io::Result<Bytes>>) -> String {
    let mut text = Vec::new();
    while let Some(piece) = pieces.recv().await {
        text.extend_from_slice(&piece.unwrap());
    }
    String::from_utf8(text).unwrap()
}

async fn read(store: &LogStore, query: Query) -> String {
    collect(store.reader(&key(), "c", 0).read(query)).await
}

fn tail(lines: u64) -> Query {
    Query {
        tail: Some(lines),
        ..Query::default()
    }
}

#[tokio::test]
async fn what_is_written_is_read_at_once_and_after_the_writer_is_gone() {
    let (_dir, store) = store(LogLimits::default());
    let log = store.begin(&key(), "c", 0);
    let sink = log.sink();
    for index in 0..5 {
        sink.write(LogStream::Stdout, format!("line {index}\n").as_bytes());
    }
    sink.write(LogStream::Stderr, b"part one, ");
    sink.write(LogStream::Stderr, b"part two\n");
    let all = "line 0\nline 1\nline 2\nline 3\nline 4\npart one, part two\n";
    assert_eq!(read(&store, Query::default()).await, all);
    drop((sink, log));
    assert_eq!(read(&store, Query::default()).await, all);
    assert!(store.dir().join("ns_pod_uid/c/0.log").is_file());
    // Parts count as lines, as they do upstream.
    assert_eq!(read(&store, tail(3)).await, "line 4\npart one, part two\n");
    assert_eq!(read(&store, tail(0)).await, "");
    assert_eq!(read(&store, tail(100)).await, all);
    let limited = Query {
        limit: Some(9),
        ..Query::default()
    };
    assert_eq!(read(&store, limited).await, "line 0\nli");
    let errors = Query {
        streams: Streams::Only(LogStream::Stderr),
        ..Query::default()
    };
    assert_eq!(read(&store, errors).await, "part one, part two\n");
}

#[tokio::test]
async fn times_are_shown_and_select() {
    let (_dir, store) = store(LogLimits::default());
    let log = store.begin(&key(), "c", 0);
    log.sink().write(LogStream::Stdout, b"early\n");
    log.settled().await;
    let between = Timestamp::now();
    log.sink().write(LogStream::Stdout, b"la");
    log.sink().write(LogStream::Stdout, b"te\n");
    let since = Query {
        since: Some(between),
        timestamps: true,
        ..Query::default()
    };
    let text = read(&store, since).await;
    let (time, line) = text.split_once(' ').unwrap();
    assert!(time.parse::<Timestamp>().unwrap() >= between);
    assert_eq!(line, "late\n");
}

#[tokio::test]
async fn a_log_that_is_not_there_is_empty() {
    let (_dir, store) = store(LogLimits::default());
    assert_eq!(
        read(
            &store,
            Query {
                follow: true,
                ..tail(5)
            }
        )
        .await,
        ""
    );
}

#[tokio::test]
async fn files_are_put_aside_and_the_oldest_removed() {
    let (_dir, store) = store(small(100));
    let log = store.begin(&key(), "c", 0);
    for index in 0..20 {
        log.sink()
            .write(LogStream::Stdout, format!("line {index:02}\n").as_bytes());
        log.settled().await;
    }
    // A line takes 48 bytes: three to a file, of which there are three.
    let text = read(&store, Query::default()).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        (lines.first(), lines.last()),
        (Some(&"line 12"), Some(&"line 19"))
    );
    assert_eq!(lines.len(), 8);
    assert_eq!(
        read(&store, tail(4)).await,
        "line 16\nline 17\nline 18\nline 19\n"
    );
    let mut files: Vec<_> = names(&store.dir().join("ns_pod_uid/c")).collect();
    files.sort();
    assert_eq!(files, ["0.log", "0.log.4", "0.log.5"]);

    // The next process goes on where this one was.
    drop(log);
    let log = store.begin(&key(), "c", 0);
    for index in 20..24 {
        log.sink()
            .write(LogStream::Stdout, format!("line {index:02}\n").as_bytes());
        log.settled().await;
    }
    let text = read(&store, tail(6)).await;
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        (18..24)
            .map(|index| format!("line {index}"))
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_follower_gets_every_line_across_files_and_then_the_end() {
    let (_dir, store) = store(LogLimits {
        file_bytes: 200,
        files: 1000,
    });
    let log = store.begin(&key(), "c", 0);
    let sink = log.sink();
    sink.write(LogStream::Stdout, b"0\n");
    let follow = Query {
        follow: true,
        ..Query::default()
    };
    let followers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(collect(store.reader(&key(), "c", 0).read(follow.clone()))))
        .collect();
    for index in 1..500 {
        sink.write(LogStream::Stdout, format!("{index}\n").as_bytes());
        if index % 7 == 0 {
            log.settled().await;
        }
    }
    log.close();
    let expected = (0..500)
        .map(|index| index.to_string())
        .collect::<Vec<_>>()
        .join("\n")
        + "\n";
    for follower in followers {
        assert_eq!(follower.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_follower_who_leaves_is_noticed() {
    let (_dir, store) = store(LogLimits::default());
    let log = store.begin(&key(), "c", 0);
    log.sink().write(LogStream::Stdout, b"hello\n");
    let mut pieces = store.reader(&key(), "c", 0).read(Query {
        follow: true,
        ..Query::default()
    });
    assert_eq!(pieces.recv().await.unwrap().unwrap(), "hello\n");
    assert!(Arc::strong_count(&log) > 1, "the reader holds the log");
    drop(pieces);
    tokio::time::timeout(Duration::from_mins(1), async {
        while Arc::strong_count(&log) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the reader ends");
}

#[tokio::test]
async fn writers_wait_when_the_disk_is_behind() {
    let (_dir, store) = store(LogLimits::default());
    let log = store.begin(&key(), "c", 0);
    let sink = log.sink();
    let line = vec![b'x'; 16 << 10];
    let mut waited = false;
    for _ in 0..1000 {
        std::future::poll_fn(|context| {
            let ready = sink.poll_ready(context);
            waited |= ready.is_pending();
            ready
        })
        .await;
        sink.write(LogStream::Stdout, &line);
    }
    log.settled().await;
    assert!(waited);
    assert_eq!(
        read(&store, Query::default()).await.len(),
        1000 * line.len()
    );
}

#[tokio::test]
async fn two_instances_are_kept_and_pods_forgotten() {
    let (_dir, store) = store(LogLimits::default());
    for attempt in 0..4 {
        let log = store.begin(&key(), "c", attempt);
        log.sink()
            .write(LogStream::Stdout, format!("attempt {attempt}\n").as_bytes());
        log.settled().await;
    }
    let mut files: Vec<_> = names(&store.dir().join("ns_pod_uid/c")).collect();
    files.sort();
    assert_eq!(files, ["2.log", "3.log"]);
    assert_eq!(
        collect(store.reader(&key(), "c", 2).read(Query::default())).await,
        "attempt 2\n"
    );

    fs::create_dir(store.dir().join("somebody-elses")).unwrap();
    store.keep_only(&HashSet::from([key()]));
    store.keep_only(&HashSet::new());
    // Jobs are done in order: this one comes last.
    let log = store.begin(
        &PodKey {
            uid: "other".to_owned(),
            ..key()
        },
        "c",
        0,
    );
    log.sink().write(LogStream::Stdout, b"\n");
    log.settled().await;
    let mut left: Vec<_> = names(store.dir()).collect();
    left.sort();
    assert_eq!(left, ["ns_pod_other", "somebody-elses"]);
}

#[test]
fn names_cannot_leave_the_directory() {
    let key = PodKey {
        namespace: "../..".to_owned(),
        name: "a/b".to_owned(),
        uid: "..".to_owned(),
    };
    assert_eq!(key.directory(), "-..-.._a-b_-..");
    assert!(!Path::new(&key.directory()).is_absolute());
    assert_eq!(Path::new(&key.directory()).components().count(), 1);
    assert_eq!(component(".."), "-..");
}

#[test]
fn the_last_lines_are_whole_and_have_their_times() {
    let (_dir, store) = store(LogLimits::default());
    assert_eq!(store.tail(&key(), "c", 0), []);
    let dir = store.dir().join("ns_pod_uid/c");
    fs::create_dir_all(&dir).unwrap();
    let long = format!("1970-01-01T00:00:01Z stdout F {}\n", "x".repeat(200 << 10));
    let text = format!(
        "{long}{long}1970-01-01T00:00:02Z stderr P part\n1970-01-01T00:00:03Z stdout F whole\n1970-01-01T00:00:04Z std"
    );
    fs::write(dir.join("0.log"), text).unwrap();
    let lines = store.tail(&key(), "c", 0);
    let facts = |line: &Entry| (line.time.as_second(), line.stream, line.text.len());
    assert_eq!(
        lines.iter().map(facts).collect::<Vec<_>>(),
        [
            (1, LogStream::Stdout, (200 << 10) + 1),
            (2, LogStream::Stderr, 4),
            (3, LogStream::Stdout, 6),
        ]
    );
}
