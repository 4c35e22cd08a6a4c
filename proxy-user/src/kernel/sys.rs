//! The `bpf()` calls that aya 0.14 does not have: links by their own descriptors (create, pin, open,
//! update, information), map iterators, lookup-and-delete. Source: `include/uapi/linux/bpf.h`.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya::Pod;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_ITER_CREATE: libc::c_long = 33;

const BPF_LINK_DETACH: libc::c_long = 34;

const BPF_TRACE_ITER: u32 = 28;

/// `union bpf_attr`: the kernel reads what a command needs and wants the rest zero.
#[repr(C, align(8))]
struct Attributes([u32; 32]);

impl Attributes {
    fn new(words: &[u32]) -> Self {
        let mut all = [0; 32];
        for (to, from) in all.iter_mut().zip(words) {
            *to = *from;
        }
        Self(all)
    }
}

/// The two words of a pointer, low one first: the programs are little endian, and so is the host.
fn pointer<T>(pointer: *const T) -> [u32; 2] {
    let address = pointer as u64;
    [address as u32, (address >> 32) as u32]
}

fn fd_word(fd: RawFd) -> u32 {
    // Descriptors are not negative.
    fd.unsigned_abs()
}

/// One `bpf()` call.
///
/// # Safety
/// Every pointer in `attributes` must be valid for what `command` does with it.
unsafe fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<RawFd> {
    // SAFETY: the attributes are larger than any that these commands read; pointers are the
    // caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut attributes.0,
            size_of::<Attributes>() as libc::c_long,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as RawFd)
}

/// Attaches `program` to a cgroup (Linux 5.7). Flags stay 0: cgroup links are always multi, and the
/// kernel refuses to be told so.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let words = [
        fd_word(program.as_raw_fd()),
        fd_word(cgroup.as_raw_fd()),
        attach_type,
    ];
    // SAFETY: this command reads no pointer here.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut Attributes::new(&words)) }?;
    // SAFETY: the call returned a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Pins a link or map on bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let [low, high] = pointer(path.as_ptr());
    let mut attributes = Attributes::new(&[low, high, fd_word(object.as_raw_fd())]);
    // SAFETY: the path is nul-terminated and lives until the call returns.
    unsafe { bpf(BPF_OBJ_PIN, &mut attributes) }.map(drop)
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &CStr) -> io::Result<OwnedFd> {
    let [low, high] = pointer(path.as_ptr());
    // SAFETY: as in `pin`.
    let object = unsafe { bpf(BPF_OBJ_GET, &mut Attributes::new(&[low, high])) }?;
    // SAFETY: the call returned a descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// Swaps the program behind `link` in one step (Linux 5.7).
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes =
        Attributes::new(&[fd_word(link.as_raw_fd()), fd_word(program.as_raw_fd())]);
    // SAFETY: this command reads no pointer.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(drop)
}

/// Detaches a link at once (Linux 5.9); closing its last descriptor does it some time later.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: this command reads no pointer.
    unsafe {
        bpf(
            BPF_LINK_DETACH,
            &mut Attributes::new(&[fd_word(link.as_raw_fd())]),
        )
    }
    .map(drop)
}

/// Cgroup id of a cgroup link; zero when its cgroup is gone.
pub(super) fn link_cgroup_id(link: BorrowedFd<'_>) -> io::Result<u64> {
    // `struct bpf_link_info`: type, id, prog_id, padding, then the cgroup's id and attach type.
    let mut info = [0u64; 16];
    let [low, high] = pointer(info.as_mut_ptr());
    let mut attributes = Attributes::new(&[
        fd_word(link.as_raw_fd()),
        size_of_val(&info) as u32,
        low,
        high,
    ]);
    // SAFETY: `info` is as long as said and lives until the call returns.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info[2])
}

/// An iterator over one map, open for one reading.
pub(super) fn open_map_iterator(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // `union bpf_iter_link_info` with its map's descriptor in front.
    let info = [fd_word(map.as_raw_fd()), 0, 0, 0];
    let [low, high] = pointer(info.as_ptr());
    let words = [
        fd_word(program.as_raw_fd()),
        0,
        BPF_TRACE_ITER,
        0,
        low,
        high,
        size_of_val(&info) as u32,
    ];
    // SAFETY: `info` is as long as said and lives until the call returns.
    let link = unsafe { bpf(BPF_LINK_CREATE, &mut Attributes::new(&words)) }?;
    // SAFETY: the call returned a descriptor that nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    let mut attributes = Attributes::new(&[fd_word(link.as_raw_fd())]);
    // SAFETY: this command reads no pointer.
    let iterator = unsafe { bpf(BPF_ITER_CREATE, &mut attributes) }?;
    // SAFETY: as above.
    Ok(unsafe { File::from_raw_fd(iterator) })
}

/// Takes one entry out of a hash map (Linux 5.14).
pub(super) fn map_take<K: Pod, V: Pod + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let ([key_low, key_high], [low, high]) = (
        pointer(&raw const *key),
        pointer((&raw mut value).cast_const()),
    );
    let words = [fd_word(map.as_raw_fd()), 0, key_low, key_high, low, high];
    let mut attributes = Attributes::new(&words);
    // SAFETY: key and value are as large as the map's, whose types they are, and live until the
    // call returns.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attributes) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
