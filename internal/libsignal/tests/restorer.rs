//! The restorer: the bytes by which debuggers and unwinders recognise a signal frame.

use libsignal::{Action, Disposition, Flags, Signal, SignalSet, set_action};
use std::ffi::c_void;
use std::mem;
use std::ptr;

unsafe extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut c_void) {}

#[test]
fn the_installed_restorer_is_recognisable() {
    let action = Action { disposition: Disposition::Handler(nothing), flags: Flags::empty(), mask: SignalSet::empty() };
    // SAFETY: the handler does nothing.
    unsafe { set_action(Signal::USR1, &action) }.unwrap();

    // SAFETY: a null action installs nothing; the kernel's restorer is text of this program.
    let bytes = unsafe {
        let mut installed: libc::sigaction = mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGUSR1, ptr::null(), &mut installed), 0);
        let restorer = installed.sa_restorer.expect("a restorer is installed");
        (restorer as *const ()).cast::<[u8; 9]>().read()
    };
    assert_eq!(bytes, [0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05]);
}
