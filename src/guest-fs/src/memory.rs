//! Volumes in memory: empty ones, and copies of directories that are made as far as they are changed.
//!
//! A volume's directories and files are nodes by number, under one lock that is held for single operations. A node lives as
//! long as it has a name or is held on to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::io::Errno;

use crate::host::HostDir;
use crate::node::{self, Entry, Found, Kind, Open, Result, SetTime, SetTimes, Stat};
use crate::quota::{ENTRY, Quota};

/// What a file's bytes are kept in, and counted by.
const PAGE: usize = 4096;

/// A file's bytes by the numbers of their pages.
type Pages = BTreeMap<u64, Box<[u8; PAGE]>>;

/// The longest name.
const LONGEST_NAME: usize = 255;

const ROOT: u64 = 1;

/// Volumes in memory are told apart by numbers that no device has.
static VOLUMES: AtomicU64 = AtomicU64::new(1 << 63);

/// A volume.
pub(crate) struct Memory {
    device: u64,
    quota: Quota,
    /// Whether some of it is still to be read from a disk.
    layered: bool,
    nodes: Mutex<Nodes>,
}

struct Nodes {
    by_number: HashMap<u64, Node>,
    next: u64,
}

struct Node {
    body: Body,
    links: u64,
    handles: u64,
    accessed: SystemTime,
    modified: SystemTime,
    changed: SystemTime,
}

enum Body {
    Dir(Directory),
    File(Content),
    Link(String),
}

struct Directory {
    entries: BTreeMap<String, u64>,
    parent: u64,
    /// What it is a copy of, until it was looked into.
    unread: Option<Arc<HostDir>>,
}

enum Content {
    Pages {
        size: u64,
        pages: Pages,
    },
    /// As it was made: a page would be much for a few words, of which many pods have the same.
    Given(Box<[u8]>),
    /// As it is in the directory that this is a copy of.
    Unchanged {
        dir: Arc<HostDir>,
        name: String,
        size: u64,
    },
}

impl Content {
    const EMPTY: Self = Self::Pages {
        size: 0,
        pages: BTreeMap::new(),
    };

    fn size(&self) -> u64 {
        match self {
            Self::Pages { size, .. } | Self::Unchanged { size, .. } => *size,
            Self::Given(bytes) => bytes.len() as u64,
        }
    }
}

impl Body {
    /// What it counts beside its name.
    fn kept(&self) -> u64 {
        match self {
            Self::File(Content::Pages { pages, .. }) => (pages.len() * PAGE) as u64,
            Self::Link(target) => target.len() as u64,
            Self::File(Content::Given(_) | Content::Unchanged { .. }) | Self::Dir(_) => 0,
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("quota", &self.quota)
            .finish_non_exhaustive()
    }
}

impl Node {
    fn new(body: Body) -> Self {
        let now = SystemTime::now();
        Self {
            body,
            links: 1,
            handles: 0,
            accessed: now,
            modified: now,
            changed: now,
        }
    }

    fn of(body: Body, stat: &Stat) -> Self {
        Self {
            accessed: stat.accessed,
            modified: stat.modified,
            changed: stat.changed,
            ..Self::new(body)
        }
    }

    fn kind(&self) -> Kind {
        match self.body {
            Body::Dir(_) => Kind::Directory,
            Body::File(_) => Kind::File,
            Body::Link(_) => Kind::Link,
        }
    }

    fn touch(&mut self) {
        self.modified = SystemTime::now();
        self.changed = self.modified;
    }

    fn set_times(&mut self, times: SetTimes) {
        let now = SystemTime::now();
        let set = |time: &mut SystemTime, to| match to {
            SetTime::Keep => {}
            SetTime::Now => *time = now,
            SetTime::To(to) => *time = to,
        };
        set(&mut self.accessed, times.accessed);
        set(&mut self.modified, times.modified);
        self.changed = now;
    }
}

impl Memory {
    pub(crate) fn empty(limit: u64) -> Arc<Self> {
        Self::new(limit, None)
    }

    pub(crate) fn copy_of(dir: HostDir, limit: u64) -> Arc<Self> {
        Self::new(limit, Some(Arc::new(dir)))
    }

    fn new(limit: u64, unread: Option<Arc<HostDir>>) -> Arc<Self> {
        let layered = unread.is_some();
        let root = Node::new(Body::Dir(Directory {
            entries: BTreeMap::new(),
            parent: ROOT,
            unread,
        }));
        Arc::new(Self {
            device: VOLUMES.fetch_add(1, Ordering::Relaxed),
            quota: Quota::new(limit, 0),
            layered,
            nodes: Mutex::new(Nodes {
                by_number: HashMap::from([(ROOT, root)]),
                next: ROOT + 1,
            }),
        })
    }

    pub(crate) fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(crate) fn root(self: &Arc<Self>) -> Handle {
        Handle::new(self, &mut self.nodes(), ROOT)
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    fn node(&mut self, number: u64) -> Result<&mut Node> {
        self.by_number.get_mut(&number).ok_or(Errno::STALE)
    }

    /// The directory of that number, with all that is in it.
    fn dir(&mut self, number: u64) -> Result<&mut Directory> {
        let node = self.by_number.get_mut(&number).ok_or(Errno::STALE)?;
        let Body::Dir(dir) = &mut node.body else {
            return Err(Errno::NOTDIR);
        };
        if let Some(unread) = dir.unread.take()
            && let Err(error) = self.read(number, &unread)
        {
            self.dir_as_it_is(number)?.unread = Some(unread);
            return Err(error);
        }
        self.dir_as_it_is(number)
    }

    fn dir_as_it_is(&mut self, number: u64) -> Result<&mut Directory> {
        match &mut self.node(number)?.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) | Body::Link(_) => Err(Errno::NOTDIR),
        }
    }

    /// Takes over what is in a directory of the host.
    fn read(&mut self, parent: u64, from: &Arc<HostDir>) -> Result<()> {
        let mut entries = BTreeMap::new();
        for entry in from.list()? {
            let (body, stat) = match from.find(&entry.name)? {
                Found::Dir(node::Dir::Host(dir)) => {
                    let stat = dir.own_stat()?;
                    let dir = Directory {
                        entries: BTreeMap::new(),
                        parent,
                        unread: Some(dir),
                    };
                    (Body::Dir(dir), stat)
                }
                Found::Link(target, stat) => (Body::Link(target), stat),
                Found::Other(stat) if stat.kind == Kind::File => {
                    let content = Content::Unchanged {
                        dir: Arc::clone(from),
                        name: entry.name.clone(),
                        size: stat.size,
                    };
                    (Body::File(content), stat)
                }
                // Devices and the like are not copied.
                Found::Other(_) | Found::Dir(_) => continue,
            };
            let number = self.add(Node::of(body, &stat));
            entries.insert(entry.name, number);
        }
        self.dir_as_it_is(parent)?.entries = entries;
        Ok(())
    }

    fn add(&mut self, node: Node) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, node);
        number
    }

    fn find(&mut self, dir: u64, name: &str) -> Result<u64> {
        let found = self.dir(dir)?.entries.get(name).copied();
        found.ok_or(if name.len() > LONGEST_NAME {
            Errno::NAMETOOLONG
        } else {
            Errno::NOENT
        })
    }

    /// Whether a directory is, or is in, another.
    fn within(&mut self, mut dir: u64, other: u64) -> Result<bool> {
        loop {
            if dir == other {
                return Ok(true);
            }
            if dir == ROOT {
                return Ok(false);
            }
            dir = self.dir_as_it_is(dir)?.parent;
        }
    }
}

/// Something of a volume that is held on to: a directory or a file.
pub(crate) struct Handle {
    memory: Arc<Memory>,
    number: u64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("device", &self.memory.device)
            .field("number", &self.number)
            .finish()
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        Self::new(&self.memory, &mut self.memory.nodes(), self.number)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut nodes = self.memory.nodes();
        if let Some(node) = nodes.by_number.get_mut(&self.number) {
            node.handles -= 1;
        }
        self.memory.forget(&mut nodes, self.number);
    }
}

impl Memory {
    /// Lets go of a node that has neither name nor handle.
    fn forget(&self, nodes: &mut Nodes, number: u64) {
        let Some(node) = nodes.by_number.get(&number) else {
            return;
        };
        if node.links == 0 && node.handles == 0 {
            self.quota.give_back(node.body.kept());
            nodes.by_number.remove(&number);
        }
    }

    /// Takes a name away.
    fn unlink(&self, nodes: &mut Nodes, dir: u64, name: &str, number: u64) -> Result<()> {
        nodes.dir(dir)?.entries.remove(name);
        nodes.node(dir)?.touch();
        self.quota.give_back(ENTRY);
        let node = nodes.node(number)?;
        node.links -= 1;
        node.changed = SystemTime::now();
        self.forget(nodes, number);
        Ok(())
    }
}

impl Handle {
    fn new(memory: &Arc<Memory>, nodes: &mut Nodes, number: u64) -> Self {
        if let Some(node) = nodes.by_number.get_mut(&number) {
            node.handles += 1;
        }
        Self {
            memory: Arc::clone(memory),
            number,
        }
    }

    pub(crate) fn blocks(&self) -> bool {
        self.memory.layered
    }

    pub(crate) fn own_stat(&self) -> Result<Stat> {
        stat(&self.memory, &mut self.memory.nodes(), self.number)
    }

    pub(crate) fn set_own_times(&self, times: SetTimes) -> Result<()> {
        self.memory.nodes().node(self.number)?.set_times(times);
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Result<Found> {
        let mut nodes = self.memory.nodes();
        let number = nodes.find(self.number, name)?;
        let stat = stat(&self.memory, &mut nodes, number)?;
        Ok(match &nodes.node(number)?.body {
            Body::Dir(_) => Found::Dir(node::Dir::Memory(Self::new(
                &self.memory,
                &mut nodes,
                number,
            ))),
            Body::Link(target) => Found::Link(target.clone(), stat),
            Body::File(_) => Found::Other(stat),
        })
    }

    pub(crate) fn set_times(&self, name: &str, times: SetTimes) -> Result<()> {
        let mut nodes = self.memory.nodes();
        let number = nodes.find(self.number, name)?;
        nodes.node(number)?.set_times(times);
        Ok(())
    }

    /// Makes a file that is that, until it is changed.
    pub(crate) fn give(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let content = Content::Given(bytes.into());
        self.add(&mut self.memory.nodes(), name, Body::File(content))
            .map(drop)
    }

    pub(crate) fn open(&self, name: &str, how: Open) -> Result<Self> {
        let mut nodes = self.memory.nodes();
        let number = match nodes.find(self.number, name) {
            Ok(_) if how.create && how.exclusive => return Err(Errno::EXIST),
            Ok(number) => number,
            Err(Errno::NOENT) if how.create => {
                self.add(&mut nodes, name, Body::File(Content::EMPTY))?
            }
            Err(error) => return Err(error),
        };
        match nodes.node(number)?.kind() {
            Kind::File => {}
            Kind::Directory => return Err(Errno::ISDIR),
            Kind::Link | Kind::Other => return Err(Errno::LOOP),
        }
        let file = Self::new(&self.memory, &mut nodes, number);
        drop(nodes);
        if how.truncate {
            file.set_size(0)?;
        }
        Ok(file)
    }

    pub(crate) fn list(&self) -> Result<Vec<Entry>> {
        let mut nodes = self.memory.nodes();
        let entries: Vec<_> = nodes
            .dir(self.number)?
            .entries
            .clone()
            .into_iter()
            .collect();
        let entry = |(name, inode)| {
            let kind = nodes.node(inode)?.kind();
            Ok(Entry { name, kind, inode })
        };
        entries.into_iter().map(entry).collect()
    }

    pub(crate) fn make_dir(&self, name: &str) -> Result<()> {
        let body = Body::Dir(Directory {
            entries: BTreeMap::new(),
            parent: self.number,
            unread: None,
        });
        self.add(&mut self.memory.nodes(), name, body).map(drop)
    }

    pub(crate) fn make_link(&self, target: &str, name: &str) -> Result<()> {
        let body = Body::Link(target.to_owned());
        self.add(&mut self.memory.nodes(), name, body).map(drop)
    }

    /// Makes something of that name.
    fn add(&self, nodes: &mut Nodes, name: &str, body: Body) -> Result<u64> {
        self.check_name(nodes, name)?;
        self.memory.quota.take(ENTRY + body.kept())?;
        let number = nodes.add(Node::new(body));
        self.insert(nodes, name, number)?;
        Ok(number)
    }

    /// Whether something new may have that name here.
    fn check_name(&self, nodes: &mut Nodes, name: &str) -> Result<()> {
        if name.len() > LONGEST_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        if nodes.node(self.number)?.links == 0 {
            // It was removed while somebody held on to it.
            return Err(Errno::NOENT);
        }
        if nodes.dir(self.number)?.entries.contains_key(name) {
            return Err(Errno::EXIST);
        }
        Ok(())
    }

    fn insert(&self, nodes: &mut Nodes, name: &str, number: u64) -> Result<()> {
        nodes
            .dir(self.number)?
            .entries
            .insert(name.to_owned(), number);
        nodes.node(self.number)?.touch();
        Ok(())
    }

    pub(crate) fn remove_dir(&self, name: &str) -> Result<()> {
        let mut nodes = self.memory.nodes();
        let number = nodes.find(self.number, name)?;
        if !nodes.dir(number)?.entries.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.memory.unlink(&mut nodes, self.number, name, number)
    }

    pub(crate) fn remove_file(&self, name: &str) -> Result<()> {
        let mut nodes = self.memory.nodes();
        let number = nodes.find(self.number, name)?;
        if nodes.node(number)?.kind() == Kind::Directory {
            return Err(Errno::ISDIR);
        }
        self.memory.unlink(&mut nodes, self.number, name, number)
    }

    pub(crate) fn link(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        if !Arc::ptr_eq(&self.memory, &to.memory) {
            return Err(Errno::XDEV);
        }
        let mut nodes = self.memory.nodes();
        let number = nodes.find(self.number, name)?;
        if nodes.node(number)?.kind() == Kind::Directory {
            return Err(Errno::PERM);
        }
        to.check_name(&mut nodes, to_name)?;
        self.memory.quota.take(ENTRY)?;
        nodes.node(number)?.links += 1;
        to.insert(&mut nodes, to_name, number)
    }

    pub(crate) fn rename(&self, name: &str, to: &Self, to_name: &str) -> Result<()> {
        if !Arc::ptr_eq(&self.memory, &to.memory) {
            return Err(Errno::XDEV);
        }
        let mut nodes = self.memory.nodes();
        let number = nodes.find(self.number, name)?;
        let is_dir = nodes.node(number)?.kind() == Kind::Directory;
        if is_dir && nodes.within(to.number, number)? {
            return Err(Errno::INVAL);
        }
        match nodes.find(to.number, to_name) {
            Ok(replaced) if replaced == number => return Ok(()),
            Ok(replaced) => to.replace(&mut nodes, to_name, replaced, is_dir)?,
            Err(Errno::NOENT) => to.check_name(&mut nodes, to_name)?,
            Err(error) => return Err(error),
        }
        nodes.dir(self.number)?.entries.remove(name);
        nodes.node(self.number)?.touch();
        if is_dir {
            nodes.dir_as_it_is(number)?.parent = to.number;
        }
        to.insert(&mut nodes, to_name, number)
    }

    /// Removes what something else is renamed to.
    fn replace(&self, nodes: &mut Nodes, name: &str, replaced: u64, by_dir: bool) -> Result<()> {
        match (nodes.node(replaced)?.kind() == Kind::Directory, by_dir) {
            (true, false) => return Err(Errno::ISDIR),
            (false, true) => return Err(Errno::NOTDIR),
            (true, true) if !nodes.dir(replaced)?.entries.is_empty() => {
                return Err(Errno::NOTEMPTY);
            }
            (true, true) | (false, false) => {}
        }
        self.memory.unlink(nodes, self.number, name, replaced)
    }

    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        let mut nodes = self.memory.nodes();
        let node = nodes.node(self.number)?;
        let Body::File(content) = &node.body else {
            return Err(Errno::ISDIR);
        };
        let rest = content.size().saturating_sub(at);
        let length = into.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let into = &mut into[..length];
        match content {
            Content::Pages { pages, .. } => read_pages(pages, at, into),
            Content::Given(bytes) => {
                copy_from(bytes, at, into);
            }
            Content::Unchanged { dir, name, .. } => {
                return dir.open(name, Open::default())?.read(at, into);
            }
        }
        node.accessed = SystemTime::now();
        Ok(length)
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        self.write_at(&mut self.memory.nodes(), Some(at), bytes)
    }

    pub(crate) fn append(&self, bytes: &[u8]) -> Result<usize> {
        self.write_at(&mut self.memory.nodes(), None, bytes)
    }

    fn write_at(&self, nodes: &mut Nodes, at: Option<u64>, bytes: &[u8]) -> Result<usize> {
        let quota = &self.memory.quota;
        let node = nodes.node(self.number)?;
        let (size, pages) = changeable(node, quota)?;
        let at = at.unwrap_or(*size);
        let written = write_pages(pages, quota, at, bytes)?;
        *size = (*size).max(at + written as u64);
        node.touch();
        Ok(written)
    }

    pub(crate) fn set_size(&self, to: u64) -> Result<()> {
        let quota = &self.memory.quota;
        let mut nodes = self.memory.nodes();
        let node = nodes.node(self.number)?;
        if to == 0
            && let Body::File(content @ Content::Unchanged { .. }) = &mut node.body
        {
            *content = Content::EMPTY;
        }
        let (size, pages) = changeable(node, quota)?;
        if to > i64::MAX.cast_unsigned() {
            return Err(Errno::FBIG);
        }
        let kept = pages.len();
        pages.split_off(&to.div_ceil(PAGE as u64));
        quota.give_back(((kept - pages.len()) * PAGE) as u64);
        // What is cut off must not come back when it grows again.
        let within = usize::try_from(to % PAGE as u64).unwrap_or(0);
        if let Some(last) = pages.get_mut(&(to / PAGE as u64)) {
            last[within..].fill(0);
        }
        *size = to;
        node.touch();
        Ok(())
    }
}

fn stat(memory: &Memory, nodes: &mut Nodes, number: u64) -> Result<Stat> {
    let node = nodes.node(number)?;
    Ok(Stat {
        kind: node.kind(),
        device: memory.device,
        inode: number,
        links: node.links,
        size: match &node.body {
            Body::Dir(dir) => dir.entries.len() as u64,
            Body::File(content) => content.size(),
            Body::Link(target) => target.len() as u64,
        },
        accessed: node.accessed,
        modified: node.modified,
        changed: node.changed,
    })
}

/// A file's size and pages, copied if that was not done yet.
fn changeable<'a>(node: &'a mut Node, quota: &Quota) -> Result<(&'a mut u64, &'a mut Pages)> {
    let Body::File(content) = &mut node.body else {
        return Err(Errno::ISDIR);
    };
    if let Content::Given(bytes) = content {
        let count = (bytes.len() as u64).div_ceil(PAGE as u64);
        quota.take(count * PAGE as u64)?;
        let pages = copy(count, |at, page| Ok(copy_from(bytes, at, page)))?;
        let size = bytes.len() as u64;
        *content = Content::Pages { size, pages };
    }
    if let Content::Unchanged { dir, name, size } = content {
        let file = dir.open(name, Open::default())?;
        let count = size.div_ceil(PAGE as u64);
        let bytes = count.saturating_mul(PAGE as u64);
        quota.take(bytes)?;
        let pages = copy(count, |at, page| file.read(at, page));
        let pages = pages.inspect_err(|_| quota.give_back(bytes))?;
        *content = Content::Pages { size: *size, pages };
    }
    match content {
        Content::Pages { size, pages } => Ok((size, pages)),
        Content::Given(_) | Content::Unchanged { .. } => Err(Errno::IO),
    }
}

/// Copies what is there from an offset on, as far as there is room, and says how much that was.
fn copy_from(bytes: &[u8], at: u64, into: &mut [u8]) -> usize {
    let from = usize::try_from(at).unwrap_or(usize::MAX);
    let rest = bytes.get(from..).unwrap_or_default();
    let length = rest.len().min(into.len());
    into[..length].copy_from_slice(&rest[..length]);
    length
}

fn copy(count: u64, read: impl Fn(u64, &mut [u8]) -> Result<usize>) -> Result<Pages> {
    let mut pages = BTreeMap::new();
    for index in 0..count {
        let mut page = Box::new([0; PAGE]);
        let mut filled = 0;
        while filled < PAGE {
            let at = index * PAGE as u64 + filled as u64;
            match read(at, &mut page[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        pages.insert(index, page);
    }
    Ok(pages)
}

/// The page that an offset is in, where in it, and how many of so many bytes are in the same page.
fn place(at: u64, length: usize) -> (u64, usize, usize) {
    let within = usize::try_from(at % PAGE as u64).unwrap_or(0);
    (at / PAGE as u64, within, length.min(PAGE - within))
}

fn read_pages(pages: &Pages, mut at: u64, mut into: &mut [u8]) {
    while !into.is_empty() {
        let (index, within, length) = place(at, into.len());
        let (piece, rest) = into.split_at_mut(length);
        match pages.get(&index) {
            Some(page) => piece.copy_from_slice(&page[within..within + length]),
            None => piece.fill(0),
        }
        into = rest;
        at += length as u64;
    }
}

/// Writes as much as there is room for.
fn write_pages(pages: &mut Pages, quota: &Quota, at: u64, bytes: &[u8]) -> Result<usize> {
    let end = at.checked_add(bytes.len() as u64);
    if end.is_none_or(|end| end > i64::MAX.cast_unsigned()) {
        return Err(Errno::FBIG);
    }
    let mut written = 0;
    while written < bytes.len() {
        let (index, within, length) = place(at + written as u64, bytes.len() - written);
        let page = match pages.entry(index) {
            std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
            std::collections::btree_map::Entry::Vacant(vacant) => match quota.take(PAGE as u64) {
                Ok(()) => vacant.insert(Box::new([0; PAGE])),
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            },
        };
        page[within..within + length].copy_from_slice(&bytes[written..written + length]);
        written += length;
    }
    Ok(written)
}
