//! The program that holds a pod's namespaces: it reaps what is orphaned, and waits.
//!
//! It is a static ELF file of some two hundred bytes, put together here instruction by instruction, so that neither a
//! compiler nor a registry is needed to have it. It tells the kernel that it will never ask how its children ended
//! (`SIGCHLD` ignored, `SA_NOCLDWAIT`), upon which orphans leave no zombies behind, and then waits for signals for ever.

/// The file's headers: one of ELF, one of the single segment.
const HEADERS: u64 = 64 + 56;
/// Where the segment is in memory.
const BASE: u64 = 0x40_0000;

/// `struct sigaction` as the kernel has it on both machines: handler (`SIG_IGN`), flags (`SA_NOCLDWAIT`), restorer, mask.
const ACTION: [u64; 4] = [1, 2, 0, 0];

/// The machine's number in ELF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    X86 = 62,
    Arm = 183,
}

/// The program for a machine in Go's words, `amd64` or `arm64`; `None` for any other.
pub fn program(architecture: &str) -> Option<Vec<u8>> {
    match architecture {
        "amd64" => Some(elf(Machine::X86, &amd64())),
        "arm64" => Some(elf(Machine::Arm, &arm64())),
        _ => None,
    }
}

/// `rt_sigaction(SIGCHLD, &ACTION, NULL, 8); for (;;) pause();`
fn amd64() -> Vec<u8> {
    const CODE: usize = 35;
    let action = BASE + HEADERS + CODE as u64;
    let address = u32::try_from(action).unwrap_or(u32::MAX).to_le_bytes();
    let mut code = Vec::with_capacity(CODE);
    code.extend([0xb8, 13, 0, 0, 0]); //            mov eax, 13 (rt_sigaction)
    code.extend([0xbf, 17, 0, 0, 0]); //            mov edi, 17 (SIGCHLD)
    code.push(0xbe); //                             mov esi, ACTION
    code.extend(address);
    code.extend([0x31, 0xd2]); //                   xor edx, edx
    code.extend([0x41, 0xba, 8, 0, 0, 0]); //       mov r10d, 8
    code.extend([0x0f, 0x05]); //                   syscall
    code.extend([0x90]); //                         nop
    code.extend([0xb8, 34, 0, 0, 0]); //      wait: mov eax, 34 (pause)
    code.extend([0x0f, 0x05]); //                   syscall
    code.extend([0xeb, 0xf7]); //                   jmp wait
    debug_assert_eq!(code.len(), CODE, "the action comes right behind the code");
    code
}

/// The same; this machine has no `pause`, but `ppoll(NULL, 0, NULL, NULL, 0)`.
fn arm64() -> Vec<u8> {
    const CODE: [u32; 14] = [
        0xd280_0220, //       mov x0, #17 (SIGCHLD)
        0x1000_01a1, //       adr x1, ACTION
        0xd280_0002, //       mov x2, #0
        0xd280_0103, //       mov x3, #8
        0xd280_10c8, //       mov x8, #134 (rt_sigaction)
        0xd400_0001, //       svc #0
        0xd280_0000, // wait: mov x0, #0
        0xd280_0001, //       mov x1, #0
        0xd280_0002, //       mov x2, #0
        0xd280_0003, //       mov x3, #0
        0xd280_0004, //       mov x4, #0
        0xd280_0928, //       mov x8, #73 (ppoll)
        0xd400_0001, //       svc #0
        0x17ff_fff9, //       b wait
    ];
    CODE.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn elf(machine: Machine, code: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64 + size_of_val(&ACTION) as u64;
    let mut file = Vec::new();
    // 64 bit, little endian, version 1, System V.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    half(&mut file, 2); // ET_EXEC
    half(&mut file, machine as u16);
    word(&mut file, 1);
    long(&mut file, BASE + HEADERS); // where it begins
    long(&mut file, 64); // where the segment's header is
    long(&mut file, 0); // no sections
    word(&mut file, 0);
    for number in [64, 56, 1, 64, 0, 0] {
        half(&mut file, number);
    }
    word(&mut file, 1); // PT_LOAD
    word(&mut file, 5); // readable and executable
    for number in [0, BASE, BASE, size, size, 0x1_0000] {
        long(&mut file, number);
    }
    file.extend(code);
    for number in ACTION {
        long(&mut file, number);
    }
    file
}

fn half(file: &mut Vec<u8>, number: u16) {
    file.extend(number.to_le_bytes());
}

fn word(file: &mut Vec<u8>, number: u32) {
    file.extend(number.to_le_bytes());
}

fn long(file: &mut Vec<u8>, number: u64) {
    file.extend(number.to_le_bytes());
}

/// The root file system of the image: the program, and nothing else.
pub(crate) fn root(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, "pause", program)?;
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_machines_have_one() {
        for (architecture, machine) in [("amd64", 62), ("arm64", 183)] {
            let program = program(architecture).unwrap();
            assert_eq!(program[..4], *b"\x7fELF");
            assert_eq!(program[18], machine);
            assert!(program.len() < 256, "{}", program.len());
            // The action comes last, and is found by its handler.
            let action = program.len() - 32;
            assert_eq!(
                program[action..action + 16],
                [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
            );
        }
        assert!(program("riscv64").is_none());
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn it_waits_until_it_is_killed() {
        use std::{
            io::Write as _,
            os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        file.write_all(&program("amd64").unwrap()).unwrap();
        drop(file);
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        // SIGCHLD is the 17th: once it is ignored, the program has come to its waiting.
        let ignores = || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.is_some_and(|mask| mask & (1 << 16) != 0)
        };
        while !ignores() {
            assert_eq!(child.try_wait().unwrap(), None);
            std::thread::yield_now();
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
