//! Our own types behind the handles of interfaces whose types are `wasmtime-wasi`'s.
//!
//! A handle is an index into the instance's resource table, where [`host`] and [`guest`] put another type under the same index. The
//! table checks the type of what it is asked for, so a mix-up would be an error, never a misinterpretation.

use wasmtime::component::Resource;

/// What we keep behind a handle that the guest gave.
pub fn host<Ours, Theirs: 'static>(handle: &Resource<Theirs>) -> Resource<Ours>
where
    Ours: 'static,
{
    if handle.owned() {
        Resource::new_own(handle.rep())
    } else {
        Resource::new_borrow(handle.rep())
    }
}

/// A handle for the guest on what we keep.
pub fn guest<Ours: 'static, Theirs: 'static>(kept: &Resource<Ours>) -> Resource<Theirs> {
    Resource::new_own(kept.rep())
}
