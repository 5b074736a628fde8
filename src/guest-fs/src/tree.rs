//! One process's files: volumes mounted into one tree, and the way that a path takes through it.
//!
//! Paths are walked name by name, links included, so that a mount is found whichever way leads to it, and so that nothing but
//! names ever reaches a volume. `..` goes back to where the walk has come from, and never further than where it began.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;

use crate::memory::Memory;
use crate::node::{Dir, Entry, File, Found, Kind, Open, Result, SetTimes, Stat};

/// The longest path, and target of a link.
const LONGEST_PATH: usize = 4096;

/// The most links that are followed on one way.
const MOST_LINKS: usize = 40;

/// Room for the directories that mounts need on their way; it is not the guest's to use.
const SCAFFOLD: u64 = 16 << 20;

/// A process's files. Paths within are `/a/b`, and empty for the root.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Dir,
    root_read_only: bool,
    /// Directories that only exist because something is mounted further in.
    scaffold: Dir,
    mounts: BTreeMap<String, MountPoint>,
}

/// What is mounted somewhere.
#[derive(Clone, Debug)]
pub(crate) struct MountPoint {
    pub(crate) what: Target,
    pub(crate) read_only: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Target {
    Dir(Dir),
    /// A file by its name in a directory, so that what replaces it is seen.
    File(Dir, String),
}

/// A directory, and where in the tree it was found.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) dir: Dir,
    path: Arc<str>,
    pub(crate) read_only: bool,
}

/// What was opened.
#[derive(Debug)]
pub(crate) enum Opened {
    Dir(Place),
    File(File),
}

/// Where a path led: what its last name is in, and what it stands for.
struct Walked {
    /// None if the path ends in `.` or `..`.
    last: Option<(Place, String)>,
    found: Step,
    /// It ends in a slash.
    dir_wanted: bool,
}

/// What a name leads to.
enum Step {
    Dir(Place),
    Link(String, Stat),
    /// Of that name in that directory.
    File {
        dir: Dir,
        name: String,
        stat: Stat,
        read_only: bool,
        mounted: bool,
    },
    Absent,
}

impl Place {
    fn child(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    fn check_writable(&self) -> Result<()> {
        if self.read_only {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }
}

impl Walked {
    /// Where something new can be made.
    fn absent(self) -> Result<(Place, String)> {
        match (self.found, self.last) {
            (Step::Absent, Some((place, name))) => {
                place.check_writable()?;
                Ok((place, name))
            }
            _ => Err(Errno::EXIST),
        }
    }
}

impl Tree {
    /// Only what is mounted; or a root directory, and what is mounted in it.
    pub(crate) fn new(root: Option<Dir>) -> Self {
        let scaffold = Dir::Memory(Memory::empty(SCAFFOLD).root());
        Self {
            root_read_only: root.is_none(),
            root: root.unwrap_or_else(|| scaffold.clone()),
            scaffold,
            mounts: BTreeMap::new(),
        }
    }

    /// Mounts something at an absolute path. `None` if something else is mounted there.
    pub(crate) fn mount(&mut self, path: &str, point: MountPoint) -> Result<Option<()>> {
        let path = self.real_path(path)?;
        if path.is_empty() {
            return Ok(match point.what {
                Target::Dir(dir) => {
                    self.root = dir;
                    self.root_read_only = point.read_only;
                    Some(())
                }
                Target::File(..) => return Err(Errno::NOTDIR),
            });
        }
        let mut dir = self.scaffold.clone();
        let (way, name) = path.rsplit_once('/').ok_or(Errno::INVAL)?;
        for name in way.split('/').filter(|name| !name.is_empty()) {
            match dir.make_dir(name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            let Found::Dir(next) = dir.find(name)? else {
                return Err(Errno::NOTDIR);
            };
            dir = next;
        }
        debug_assert!(!name.is_empty());
        if self.mounts.contains_key(&path) {
            return Ok(None);
        }
        self.mounts.insert(path, point);
        Ok(Some(()))
    }

    /// Where a path leads when links are followed as far as it exists.
    fn real_path(&self, path: &str) -> Result<String> {
        let names: Vec<_> = path
            .split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .collect();
        let root = self.root();
        let mut place = root.clone();
        for index in 0..names.len() {
            match self.walk(&root, &names[..=index].join("/"), true)?.found {
                Step::Dir(next) => place = next,
                // What is mounted hides whatever is there.
                Step::File { .. } | Step::Link(..) | Step::Absent => {
                    return Ok(place.child(&names[index..].join("/")));
                }
            }
        }
        Ok(place.path.to_string())
    }

    pub(crate) fn root(&self) -> Place {
        Place {
            dir: self.root.clone(),
            path: Arc::from(""),
            read_only: self.root_read_only,
        }
    }

    /// Whether its operations may wait for a disk.
    pub(crate) fn blocks(&self) -> bool {
        let of = |target: &Target| match target {
            Target::Dir(dir) | Target::File(dir, _) => dir.blocks(),
        };
        self.root.blocks() || self.mounts.values().any(|mount| of(&mount.what))
    }

    /// What is mounted further in than that path.
    fn mounted_in<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a str> {
        let within = format!("{path}/");
        self.mounts
            .range(within.clone()..)
            .map_while(move |(path, _)| path.strip_prefix(&within))
    }

    /// Whether something is mounted there or further in, so that it must stay.
    fn check_idle(&self, place: &Place, name: &str) -> Result<()> {
        let path = place.child(name);
        if self.mounts.contains_key(&path) || self.mounted_in(&path).next().is_some() {
            return Err(Errno::BUSY);
        }
        Ok(())
    }

    fn step(&self, place: &Place, name: &str) -> Result<Step> {
        let path = place.child(name);
        if let Some(mount) = self.mounts.get(&path) {
            return mounted(mount, path);
        }
        let found = match place.dir.find(name) {
            Err(Errno::NOENT) => None,
            found => Some(found?),
        };
        match found {
            Some(Found::Dir(dir)) => Ok(Step::Dir(Place {
                dir,
                path: path.into(),
                read_only: place.read_only,
            })),
            // Whatever it is, it gives way to what is mounted further in.
            _ if self.mounted_in(&path).next().is_some() => self.scaffold(path).map(Step::Dir),
            Some(Found::Link(target, stat)) => Ok(Step::Link(target, stat)),
            Some(Found::Other(stat)) => Ok(Step::File {
                dir: place.dir.clone(),
                name: name.to_owned(),
                stat,
                read_only: place.read_only,
                mounted: false,
            }),
            None => Ok(Step::Absent),
        }
    }

    /// The directory that is only there because of a mount further in.
    fn scaffold(&self, path: String) -> Result<Place> {
        let mut dir = self.scaffold.clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Found::Dir(next) = dir.find(name)? else {
                return Err(Errno::NOTDIR);
            };
            dir = next;
        }
        Ok(Place {
            dir,
            path: path.into(),
            read_only: true,
        })
    }

    /// Walks a relative path. What the last name stands for may be absent; a link there is followed only if so wanted.
    fn walk(&self, from: &Place, path: &str, follow: bool) -> Result<Walked> {
        check_path(path)?;
        let dir_wanted = path.ends_with('/');
        let mut way = vec![from.clone()];
        let mut rest: Vec<String> = Vec::new();
        push_names(&mut rest, path);
        let mut links = 0;
        let mut last = None;
        while let Some(name) = rest.pop() {
            let here = way.last().ok_or(Errno::PERM)?;
            last = None;
            if name == ".." {
                way.pop();
                if way.is_empty() {
                    return Err(Errno::PERM);
                }
                continue;
            }
            let is_last = rest.is_empty();
            let found = match self.step(here, &name)? {
                Step::Dir(place) => {
                    last = Some((here.clone(), name));
                    way.push(place);
                    continue;
                }
                Step::Link(target, _) if !is_last || follow || dir_wanted => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(Errno::LOOP);
                    }
                    Self::follow(from, &mut way, &mut rest, &target)?;
                    continue;
                }
                found => found,
            };
            if !is_last {
                return Err(match found {
                    Step::Absent => Errno::NOENT,
                    _ => Errno::NOTDIR,
                });
            }
            let last = Some((here.clone(), name));
            return Ok(Walked {
                last,
                found,
                dir_wanted,
            });
        }
        let place = way.pop().ok_or(Errno::PERM)?;
        Ok(Walked {
            last,
            found: Step::Dir(place),
            dir_wanted,
        })
    }

    /// Goes on where a link points to. An absolute one begins at the tree's root, if that is where the walk began:
    /// whoever was given less can't get more by a link.
    fn follow(
        from: &Place,
        way: &mut Vec<Place>,
        rest: &mut Vec<String>,
        target: &str,
    ) -> Result<()> {
        if target.is_empty() || target.len() > LONGEST_PATH {
            return Err(Errno::NOENT);
        }
        if target.starts_with('/') {
            if !from.path.is_empty() {
                return Err(Errno::PERM);
            }
            way.truncate(1);
        }
        push_names(rest, target);
        if rest.iter().map(String::len).sum::<usize>() > 2 * LONGEST_PATH {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(())
    }

    /// Opens what a path leads to, as a directory if it is one; or makes a file.
    pub(crate) fn open(&self, from: &Place, path: &str, follow: bool, how: Open) -> Result<Opened> {
        let follow = follow && !(how.create && how.exclusive);
        let walked = self.walk(from, path, follow)?;
        match walked.found {
            Step::Dir(_) | Step::Link(..) if how.create && how.exclusive => Err(Errno::EXIST),
            Step::Dir(_) if how.changes() => Err(Errno::ISDIR),
            Step::Dir(place) => Ok(Opened::Dir(place)),
            Step::Link(..) => Err(Errno::LOOP),
            Step::File { .. } | Step::Absent if walked.dir_wanted => Err(match walked.found {
                Step::Absent if how.create => Errno::ISDIR,
                Step::Absent => Errno::NOENT,
                _ => Errno::NOTDIR,
            }),
            Step::File {
                read_only: true, ..
            } if how.write || how.truncate => Err(Errno::ROFS),
            Step::File { .. } if how.create && how.exclusive => Err(Errno::EXIST),
            Step::File {
                dir,
                name,
                read_only,
                ..
            } => {
                let how = Open {
                    create: how.create && !read_only,
                    ..how
                };
                dir.open(&name, how).map(Opened::File)
            }
            Step::Absent if how.create => {
                let (place, name) = walked.last.ok_or(Errno::NOENT)?;
                place.check_writable()?;
                place.dir.open(&name, how).map(Opened::File)
            }
            Step::Absent => Err(Errno::NOENT),
        }
    }

    pub(crate) fn stat(&self, from: &Place, path: &str, follow: bool) -> Result<Stat> {
        let walked = self.walk(from, path, follow)?;
        match walked.found {
            Step::Dir(place) => place.dir.own_stat(),
            Step::File { .. } if walked.dir_wanted => Err(Errno::NOTDIR),
            Step::Link(_, stat) | Step::File { stat, .. } => Ok(stat),
            Step::Absent => Err(Errno::NOENT),
        }
    }

    pub(crate) fn set_times(
        &self,
        from: &Place,
        path: &str,
        follow: bool,
        times: SetTimes,
    ) -> Result<()> {
        let walked = self.walk(from, path, follow)?;
        match (walked.found, walked.last) {
            (Step::Dir(place), _) => {
                place.check_writable()?;
                place.dir.set_own_times(times)
            }
            (Step::Link(..), Some((place, name))) => {
                place.check_writable()?;
                place.dir.set_times(&name, times)
            }
            (
                Step::File {
                    read_only: true, ..
                },
                _,
            ) => Err(Errno::ROFS),
            (Step::File { dir, name, .. }, _) => dir.set_times(&name, times),
            _ => Err(Errno::NOENT),
        }
    }

    pub(crate) fn read_link(&self, from: &Place, path: &str) -> Result<String> {
        match self.walk(from, path, false)?.found {
            Step::Link(target, _) => Ok(target),
            Step::Absent => Err(Errno::NOENT),
            Step::Dir(_) | Step::File { .. } => Err(Errno::INVAL),
        }
    }

    pub(crate) fn make_dir(&self, from: &Place, path: &str) -> Result<()> {
        let (place, name) = self.walk(from, path, false)?.absent()?;
        place.dir.make_dir(&name)
    }

    /// Makes a link. Targets are relative, as WASI demands: what is absolute for a guest is not for others.
    pub(crate) fn make_link(&self, target: &str, from: &Place, path: &str) -> Result<()> {
        check_path(target)?;
        let walked = self.walk(from, path, false)?;
        if walked.dir_wanted {
            return Err(match walked.found {
                Step::Absent => Errno::NOENT,
                Step::Dir(_) => Errno::EXIST,
                Step::File { .. } | Step::Link(..) => Errno::NOTDIR,
            });
        }
        let (place, name) = walked.absent()?;
        place.dir.make_link(target, &name)
    }

    pub(crate) fn remove_dir(&self, from: &Place, path: &str) -> Result<()> {
        let walked = self.walk(from, path, false)?;
        match (walked.found, walked.last) {
            (Step::Dir(_), Some((place, name))) => {
                self.check_idle(&place, &name)?;
                place.check_writable()?;
                place.dir.remove_dir(&name)
            }
            (Step::Dir(_), None) => Err(Errno::INVAL),
            (Step::Absent, _) => Err(Errno::NOENT),
            (Step::Link(..) | Step::File { .. }, _) => Err(Errno::NOTDIR),
        }
    }

    pub(crate) fn remove_file(&self, from: &Place, path: &str) -> Result<()> {
        let walked = self.walk(from, path, false)?;
        match (walked.found, walked.last) {
            (Step::Dir(_), _) => Err(Errno::ISDIR),
            (Step::Absent, _) => Err(Errno::NOENT),
            (Step::File { mounted: true, .. }, _) => Err(Errno::BUSY),
            (_, Some((place, name))) if !walked.dir_wanted => {
                place.check_writable()?;
                place.dir.remove_file(&name)
            }
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(crate) fn rename(&self, from: &Place, path: &str, to: &Place, to_path: &str) -> Result<()> {
        let old = self.walk(from, path, false)?;
        let new = self.walk(to, to_path, false)?;
        let is_dir = match old.found {
            Step::Absent => return Err(Errno::NOENT),
            Step::Dir(_) => true,
            Step::Link(..) | Step::File { .. } => false,
        };
        if (old.dir_wanted || new.dir_wanted) && !is_dir {
            return Err(Errno::NOTDIR);
        }
        let (Some((from, name)), Some((to, to_name))) = (old.last, new.last) else {
            return Err(Errno::BUSY);
        };
        self.check_idle(&from, &name)?;
        self.check_idle(&to, &to_name)?;
        from.check_writable()?;
        to.check_writable()?;
        from.dir.rename(&name, &to.dir, &to_name)
    }

    pub(crate) fn link(&self, from: &Place, path: &str, to: &Place, to_path: &str) -> Result<()> {
        let old = self.walk(from, path, false)?;
        let new = self.walk(to, to_path, false)?;
        if old.dir_wanted || new.dir_wanted {
            return Err(Errno::NOENT);
        }
        match old.found {
            Step::Absent => return Err(Errno::NOENT),
            Step::Dir(_) => return Err(Errno::PERM),
            Step::File { mounted: true, .. } => return Err(Errno::XDEV),
            Step::File { .. } | Step::Link(..) => {}
        }
        let (from, name) = old.last.ok_or(Errno::NOENT)?;
        let (to, to_name) = new.absent()?;
        from.check_writable()?;
        from.dir.link(&name, &to.dir, &to_name)
    }

    /// What is in a directory, mounts included.
    pub(crate) fn list(&self, place: &Place) -> Result<Vec<Entry>> {
        let mut entries: BTreeMap<_, _> = place
            .dir
            .list()?
            .into_iter()
            .map(|entry| (entry.name.clone(), entry))
            .collect();
        for path in self.mounted_in(&place.path) {
            let (name, further) = path.split_once('/').unwrap_or((path, ""));
            let there = entries.get(name).map(|entry| entry.kind);
            // On the way to a mount, what is there counts, as it does for a walk.
            if !further.is_empty() && there.is_some() {
                continue;
            }
            let (kind, inode) = match self.step(place, name)? {
                Step::Dir(place) => (Kind::Directory, place.dir.own_stat()?.inode),
                Step::File { stat, .. } | Step::Link(_, stat) => (stat.kind, stat.inode),
                Step::Absent => continue,
            };
            let name = name.to_owned();
            entries.insert(name.clone(), Entry { name, kind, inode });
        }
        Ok(entries.into_values().collect())
    }
}

fn mounted(mount: &MountPoint, path: String) -> Result<Step> {
    match &mount.what {
        Target::Dir(dir) => Ok(Step::Dir(Place {
            dir: dir.clone(),
            path: path.into(),
            read_only: mount.read_only,
        })),
        Target::File(dir, name) => match dir.find(name) {
            Ok(Found::Other(stat)) => Ok(Step::File {
                dir: dir.clone(),
                name: name.clone(),
                stat,
                read_only: mount.read_only,
                mounted: true,
            }),
            Ok(Found::Dir(_) | Found::Link(..)) => Err(Errno::STALE),
            Err(Errno::NOENT) => Ok(Step::Absent),
            Err(error) => Err(error),
        },
    }
}

/// Only relative paths lead anywhere: guests are given directories, not the world.
fn check_path(path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    if path.len() > LONGEST_PATH {
        return Err(Errno::NAMETOOLONG);
    }
    if path.contains('\0') {
        return Err(Errno::INVAL);
    }
    if path.starts_with('/') {
        return Err(Errno::PERM);
    }
    Ok(())
}

/// Puts a path's names in front of the rest, which is in reverse order.
fn push_names(rest: &mut Vec<String>, path: &str) {
    let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
    rest.extend(names.rev().map(str::to_owned));
}

/// What a relative path in a volume leads to, links included.
pub(crate) fn target(volume: &Dir, path: &str) -> Result<Target> {
    let tree = Tree::new(Some(volume.clone()));
    if path.split('/').any(|name| name == "..") {
        return Err(Errno::PERM);
    }
    let path = if path.is_empty() { "." } else { path };
    match tree.walk(&tree.root(), path, true)?.found {
        Step::Dir(place) => Ok(Target::Dir(place.dir)),
        Step::File { dir, name, .. } => Ok(Target::File(dir, name)),
        Step::Absent | Step::Link(..) => Err(Errno::NOENT),
    }
}
