//! Decodes PNG files with libpng, for at most 5 ms at a time, and gives up on those that take longer.
//! Without arguments it makes two images itself, a small and a large one.
//!
//! ```sh
//! cargo run --release --example png [FILE]...
//! ```
//!
//! libpng knows nothing of this. Its twin in C: png.c.

#[cfg(not(has_libpng))]
fn main() {
    eprintln!("png: built without libpng, which pkg-config does not find (Debian: libpng-dev, pkg-config)");
    std::process::exit(77);
}

#[cfg(has_libpng)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    decoder::main()
}

#[cfg(has_libpng)]
mod decoder {
    use inger::{Linger, launch, resume};
    use std::error::Error;
    use std::time::Instant;

    const BUDGET_US: u64 = 5_000;

    struct Image {
        name: String,
        png: Vec<u8>,
        width: u32,
        height: u32,
    }

    pub(super) fn main() -> Result<(), Box<dyn Error>> {
        let files: Vec<_> = std::env::args().skip(1).collect();
        if files.is_empty() {
            return demonstrate();
        }
        let mut late = false;
        for file in files {
            late |= decode_in_time(&Image::new(&file, std::fs::read(&file)?)?)?.is_none();
        }
        std::process::exit(if late { 2 } else { 0 })
    }

    fn demonstrate() -> Result<(), Box<dyn Error>> {
        let small = Image::new("small", draw(64)?)?;
        let large = Image::new("large", draw(4000)?)?;
        decode_in_time(&small)?;
        decode_in_time(&large)?;
        decode_in_time(&small)?;
        interleave(&large, &small)
    }

    impl Image {
        fn new(name: &str, png: Vec<u8>) -> Result<Self, String> {
            let (width, height) = libpng::size(&png).map_err(|error| format!("{name}: {error}"))?;
            Ok(Image { name: name.to_owned(), png, width, height })
        }

        /// Room for the pixels: here and not in the preemptible function, which leaks what it has allocated
        /// if it is cancelled.
        fn pixels(&self) -> Vec<u8> {
            vec![0; self.width as usize * self.height as usize * 4]
        }

        fn report(&self, result: Result<u64, String>, start: Instant) -> Result<u64, String> {
            let hash = result.map_err(|error| format!("{}: {error}", self.name))?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            println!("{}: {} x {}, hash {hash:016x}, in {ms:.1} ms", self.name, self.width, self.height);
            Ok(hash)
        }
    }

    /// The preemptible function.
    fn decode(png: &[u8], pixels: &mut [u8]) -> Result<u64, String> {
        libpng::decode(png, pixels)?;
        // FNV-1a
        Ok(pixels
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
    }

    /// Decodes an image if that takes no longer than the budget.
    fn decode_in_time(image: &Image) -> Result<Option<u64>, Box<dyn Error>> {
        let mut pixels = image.pixels();
        let start = Instant::now();
        match launch(|| decode(&image.png, &mut pixels), BUDGET_US)? {
            Linger::Completion(result) => Ok(Some(image.report(result, start)?)),
            unfinished => {
                println!("{}: not done after {} ms, cancelled", image.name, BUDGET_US / 1000);
                drop(unfinished);
                Ok(None)
            }
        }
    }

    /// The large image in slices, and the small one, whole, between them.
    fn interleave(large: &Image, small: &Image) -> Result<(), Box<dyn Error>> {
        let (mut pixels, mut small_pixels) = (large.pixels(), small.pixels());
        let expected = decode(&small.png, &mut small_pixels)?;
        let start = Instant::now();
        let mut linger = launch(|| decode(&large.png, &mut pixels), BUDGET_US)?;
        let mut slices = 1;
        while linger.is_continuation() {
            let other = launch(|| decode(&small.png, &mut small_pixels), u64::MAX)?.completion();
            if other != Some(Ok(expected)) {
                return Err(format!("{}: decoded differently between slices", small.name).into());
            }
            resume(&mut linger, BUDGET_US)?;
            slices += 1;
        }
        large.report(linger.completion().ok_or("not complete")?, start)?;
        println!("... as {slices} slices, {} decoded between each two", small.name);
        Ok(())
    }

    /// An image of `side` by `side` pixels, as a PNG file.
    fn draw(side: usize) -> Result<Vec<u8>, String> {
        let pixels: Vec<_> = (0..side * side).map(|i| ((i / side / 16) ^ (i % side / 16)) as u8).collect();
        libpng::encode_gray(side as u32, &pixels)
    }

    /// The few functions of libpng's simplified interface that are needed: png.h, section "SIMPLIFIED API".
    mod libpng {
        use std::ffi::{CStr, c_char, c_int, c_void};
        use std::ptr::{null, null_mut};

        #[repr(C)]
        struct PngImage {
            opaque: *mut c_void,
            version: u32,
            width: u32,
            height: u32,
            format: u32,
            flags: u32,
            colormap_entries: u32,
            warning_or_error: u32,
            message: [c_char; 64],
        }

        const PNG_IMAGE_VERSION: u32 = 1;
        const PNG_FORMAT_GRAY: u32 = 0;
        const PNG_FORMAT_RGBA: u32 = 3;
        const PNG_IMAGE_FLAG_FAST: u32 = 2;

        #[link(name = "png16")]
        unsafe extern "C" {
            fn png_image_begin_read_from_memory(image: *mut PngImage, memory: *const c_void, bytes: usize) -> c_int;
            fn png_image_finish_read(
                image: *mut PngImage,
                background: *const c_void,
                buffer: *mut c_void,
                row_stride: i32,
                colormap: *mut c_void,
            ) -> c_int;
            fn png_image_write_to_memory(
                image: *mut PngImage,
                memory: *mut c_void,
                bytes: *mut usize,
                convert_to_8_bit: c_int,
                buffer: *const c_void,
                row_stride: i32,
                colormap: *const c_void,
            ) -> c_int;
            fn png_image_free(image: *mut PngImage);
        }

        impl PngImage {
            fn new(width: u32, height: u32, format: u32) -> Self {
                PngImage {
                    opaque: null_mut(),
                    version: PNG_IMAGE_VERSION,
                    width,
                    height,
                    format,
                    flags: PNG_IMAGE_FLAG_FAST,
                    colormap_entries: 0,
                    warning_or_error: 0,
                    message: [0; 64],
                }
            }

            fn check(&self, success: c_int) -> Result<(), String> {
                // SAFETY: libpng ends its messages with NUL, and the array was zeroes.
                let message = || unsafe { CStr::from_ptr(self.message.as_ptr()) }.to_string_lossy().into_owned();
                if success != 0 { Ok(()) } else { Err(message()) }
            }

            /// Begins to read. libpng keeps the image's address, so it stays where it is until the end.
            fn begin_read(&mut self, png: &[u8]) -> Result<(), String> {
                self.flags = 0;
                // SAFETY: the image and the file's contents are valid for the length of the call; what
                // libpng keeps of them is used by finish_read, whose caller still has them.
                let success = unsafe { png_image_begin_read_from_memory(self, png.as_ptr().cast(), png.len()) };
                self.check(success)?;
                self.format = PNG_FORMAT_RGBA;
                Ok(())
            }
        }

        pub(super) fn size(png: &[u8]) -> Result<(u32, u32), String> {
            let mut image = PngImage::new(0, 0, 0);
            image.begin_read(png)?;
            // SAFETY: begun above, and not used again.
            unsafe { png_image_free(&mut image) };
            Ok((image.width, image.height))
        }

        pub(super) fn decode(png: &[u8], pixels: &mut [u8]) -> Result<(), String> {
            let mut image = PngImage::new(0, 0, 0);
            image.begin_read(png)?;
            assert_eq!(pixels.len(), image.width as usize * image.height as usize * 4);
            // SAFETY: the buffer has room for the image in the format that was asked for, rows without gaps.
            let success =
                unsafe { png_image_finish_read(&mut image, null(), pixels.as_mut_ptr().cast(), 0, null_mut()) };
            image.check(success)
        }

        pub(super) fn encode_gray(side: u32, pixels: &[u8]) -> Result<Vec<u8>, String> {
            let mut image = PngImage::new(side, side, PNG_FORMAT_GRAY);
            let mut png = vec![0; pixels.len() + 65536];
            let mut bytes = png.len();
            // SAFETY: the buffers are as large as the image and `bytes` say.
            let success = unsafe {
                let (memory, pixels) = (png.as_mut_ptr().cast(), pixels.as_ptr().cast());
                png_image_write_to_memory(&mut image, memory, &mut bytes, 0, pixels, 0, null())
            };
            image.check(success)?;
            png.truncate(bytes);
            Ok(png)
        }
    }
}
