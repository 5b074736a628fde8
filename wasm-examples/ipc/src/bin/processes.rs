//! Lists the processes of its pod that it may know, and ends the one whose container's name is its argument.

use vaquita_guest::process::{self, Signal};
use vaquita_guest::uts;

fn main() {
    println!("on {}, as process {}", uts::hostname(), process::own_id());
    let processes = process::list();
    for one in &processes {
        println!("{} {} {:?}", one.id, one.container, one.command);
    }
    let wanted = std::env::args().nth(1);
    for one in processes {
        if wanted.as_ref() == Some(&one.container) {
            let signalled = process::send_signal(one.id, Signal::Kill);
            println!(
                "signalled: {signalled:?}, exit code: {:?}",
                process::wait(one.id)
            );
        }
    }
}
