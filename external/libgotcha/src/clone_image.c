/* The clone engine's memory: where copies lie, and how they are mapped.
 *
 * A copy takes two mappings: the file's read-only part, shared with everybody who maps the file, and the
 * writable part. The latter is first a shared mapping of an unnamed file, while the copy is relocated and
 * initialised; then a private mapping of the same file, which thereby holds the pristine state. */
#include "clone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct image_object gotcha_image[MAX_OBJECTS];
size_t gotcha_image_objects;

static uintptr_t image_size, data_size;
static uintptr_t arena, stride;
static size_t arena_images;

/* The kernel's limit, and what it counted when the layout last changed, libsets apart. */
static size_t mappings_max = 65530, foreign_mappings;

/* Room in each image for libraries that are opened later. */
enum { LATE_BYTES = 64 << 20 };

/* ------------------------------------------------------------------ layout */

/* What file is mapped at the start of each object: the path may lead to another one by now. */
static int find_files(size_t from, size_t to) {
	FILE *maps = fopen("/proc/self/maps", "re");
	if (!maps)
		return gotcha_fail(errno, "cannot read /proc/self/maps: %s", strerror(errno));
	char line[4096 + 256];
	for (foreign_mappings = 0; fgets(line, sizeof line, maps); foreign_mappings++) {
		unsigned long start, end, inode;
		if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) != 3)
			continue;
		for (size_t i = from; i < to; i++)
			if (gotcha_objects[i].start == start)
				gotcha_image[i].inode = inode;
	}
	fclose(maps);
	return 0;
}

static uintptr_t segment_start(const struct object *object, const Elf64_Phdr *segment) {
	return page_down(object->base + segment->p_vaddr);
}

static uintptr_t segment_end(const struct object *object, const Elf64_Phdr *segment) {
	return page_up(object->base + segment->p_vaddr + segment->p_memsz);
}

static bool is_data(const Elf64_Phdr *segment) {
	return segment->p_type == PT_LOAD && segment->p_flags & PF_W;
}

static bool is_text(const Elf64_Phdr *segment) {
	return segment->p_type == PT_LOAD && !(segment->p_flags & PF_W);
}

static void find_data(const struct object *object, struct image_object *place) {
	place->data_start = object->end;
	place->data_end = object->start;
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (!is_data(segment))
			continue;
		if (segment_start(object, segment) < place->data_start)
			place->data_start = segment_start(object, segment);
		if (segment_end(object, segment) > place->data_end)
			place->data_end = segment_end(object, segment);
	}
	if (place->data_end < place->data_start)
		place->data_end = place->data_start;
}

static bool holds_segment(int file, size_t size_bytes, const struct object *object, const Elf64_Phdr *segment) {
	size_t before = segment->p_offset % PAGE_SIZE, length = before + segment->p_filesz;
	if (segment->p_offset + segment->p_filesz > size_bytes)
		return false;
	char *view = mmap(NULL, length, PROT_READ, MAP_PRIVATE, file, page_down(segment->p_offset));
	bool is_same = view != MAP_FAILED && !memcmp(view + before, (char *) object->base + segment->p_vaddr, segment->p_filesz);
	if (view != MAP_FAILED)
		munmap(view, length);
	return is_same;
}

/* What is read-only tells one build of a library from another. */
static bool holds_object(int file, size_t size_bytes, const struct object *object) {
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (segment->p_type == PT_LOAD && segment->p_filesz && (segment->p_flags & (PF_R | PF_W)) == PF_R
		 && !holds_segment(file, size_bytes, object, segment))
			return false;
	}
	return true;
}

/* The number of a mapped file may be another than fstat()'s (overlay file systems), and a file may have been replaced
 * by its like: then the contents decide, once. */
static int open_object(const struct object *object, struct image_object *place) {
	int file = open(object->path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return gotcha_fail(errno, "%s: %s", object->path, strerror(errno));
	struct stat status;
	bool is_known = !fstat(file, &status);
	if (is_known && status.st_ino != place->inode && holds_object(file, status.st_size, object))
		place->inode = status.st_ino;
	if (!is_known || status.st_ino != place->inode) {
		close(file);
		return gotcha_fail(ESTALE, "%s has been replaced since the program was started", object->path);
	}
	return file;
}

/* As every linker lays objects out. (llvm-bolt puts its text behind them.) */
static bool is_data_together(const struct object *object, const struct image_object *place) {
	for (size_t i = 0; i < object->segments_len; i++)
		if (is_text(&object->segments[i]) && segment_start(object, &object->segments[i]) < place->data_end
		 && segment_end(object, &object->segments[i]) > place->data_start)
			return false;
	return true;
}

/* 0 if there is room for copies, and a file to make them of. */
static int check(const struct object *object, struct image_object *place) {
	int error = gotcha_plan_check(object);
	if (!error && !is_data_together(object, place))
		error = gotcha_fail(ENOEXEC, "%s has read-only segments amid its data: it cannot be copied (name it in LIBGOTCHA_SHARED)",
			object->path);
	if (!error && stride && image_size + (object->end - object->start) > stride)
		error = gotcha_fail(ENOMEM, "no room in the images of libsets for %s", object->path);
	if (error)
		return error;
	int file = open_object(object, place);
	if (file < 0)
		return file;
	close(file);
	return 0;
}

/* An object that was opened at run time and that cannot be copied stays without copies: calls of it run in base. */
int gotcha_image_lay_out(void) {
	size_t from = gotcha_image_objects;
	int error = find_files(from, gotcha_objects_len);
	for (size_t i = from; !error && i < gotcha_objects_len; i++) {
		const struct object *object = &gotcha_objects[i];
		struct image_object *place = &gotcha_image[i];
		if (object->kind != OBJECT_REPLICATED)
			continue;
		find_data(object, place);
		int cause = check(object, place);
		if (cause && i < gotcha_startup_len)
			return cause;
		if (cause) {
			gotcha_trace_failure();
			*place = (struct image_object) { 0 };
			continue;
		}
		place->present = true;
		place->offset = image_size;
		place->data_offset = data_size;
		image_size += object->end - object->start;
		data_size += place->data_end - place->data_start;
	}
	if (!error)
		gotcha_image_objects = gotcha_objects_len;
	return error;
}

static void read_mappings_max(void) {
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	size_t number;
	if (file && fscanf(file, "%zu", &number) == 1)
		mappings_max = number;
	if (file)
		fclose(file);
}

/* A limit of address space is set for what the program does: three quarters of it are left. */
static size_t images_max(void) {
	struct rlimit space;
	bool is_limited = !getrlimit(RLIMIT_AS, &space) && space.rlim_cur != RLIM_INFINITY;
	return is_limited && space.rlim_cur / 4 / stride < MAX_LIBSETS ? space.rlim_cur / 4 / stride : MAX_LIBSETS;
}

/* As many images as addresses can be had for. */
int gotcha_image_reserve_arena(void) {
	read_mappings_max();
	for (stride = 1ul << 26; stride < image_size + LATE_BYTES; stride *= 2)
		;
	for (arena_images = images_max(); arena_images >= 8; arena_images /= 2) {
		void *memory = mmap(NULL, arena_images * stride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory != MAP_FAILED) {
			arena = (uintptr_t) memory;
			return 0;
		}
	}
	return gotcha_fail(ENOSYS, "no address space for copies of libraries (ulimit -v?)");
}

/* Linkers lay most libraries out so that one mapping holds all read-only segments. */
static bool is_flat(const struct object *object, const struct image_object *place) {
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (is_text(segment) && (object->base + segment->p_vaddr - object->start != segment->p_offset
		 || segment_end(object, segment) > place->data_start))
			return false;
	}
	return true;
}

static size_t text_mappings(const struct object *object, const struct image_object *place) {
	size_t count = 0;
	for (size_t i = 0; i < object->segments_len; i++)
		count += is_text(&object->segments[i]);
	return is_flat(object, place) ? 1 : count;
}

/* A process may have a limited number of mappings; where that is reached anything may fail, in the program too, and
 * hence one in eight is left to it. */
size_t gotcha_image_limit(void) {
	/* its table, its pristine state, what its constructors allocate and the gap after that, a part of a stack */
	size_t each = 5;
	for (size_t i = 0; i < gotcha_image_objects; i++)
		if (gotcha_image[i].present)
			each += text_mappings(&gotcha_objects[i], &gotcha_image[i]) + 1;
	size_t ours = mappings_max - mappings_max / 8;
	size_t possible = ours > foreign_mappings ? (ours - foreign_mappings) / each : 0;
	return possible < arena_images ? possible : arena_images;
}

struct libset *gotcha_image_at(uintptr_t address, size_t *found) {
	uintptr_t from_arena = address - arena;
	if (!stride || from_arena >= arena_images * stride)
		return NULL;
	uintptr_t offset = from_arena % stride;
	/* not gotcha_libset(): constructors run before a libset is in the list */
	for (size_t i = 0; i < gotcha_image_objects; i++) {
		const struct image_object *place = &gotcha_image[i];
		if (place->present && offset - place->offset < gotcha_objects[i].end - gotcha_objects[i].start) {
			*found = i;
			return gotcha_libset_made(from_arena / stride + 1);
		}
	}
	return NULL;
}

/* ------------------------------------------------------------------ mapping */

static int map_at(uintptr_t address, size_t size, int protection, int flags, int file, off_t offset, const struct object *object) {
	if (mmap((void *) address, size, protection, flags | MAP_FIXED, file, offset) != MAP_FAILED)
		return 0;
	int error = errno;
	return gotcha_fail(error, "mapping a copy of %s: %s%s", object->path, strerror(error),
		error == ENOMEM ? " (vm.max_map_count?)" : "");
}

static int map_text(const struct object *object, const struct image_object *place, uintptr_t bias, int file) {
	if (is_flat(object, place))
		return map_at(object->start + bias, place->data_start - object->start, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0, object);
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (!is_text(segment))
			continue;
		uintptr_t start = segment_start(object, segment);
		uintptr_t end = page_up(object->base + segment->p_vaddr + segment->p_filesz);
		int error = map_at(start + bias, end - start, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, page_down(segment->p_offset), object);
		if (error)
			return error;
	}
	return 0;
}

static int read_data(const struct object *object, uintptr_t bias, int file) {
	for (size_t i = 0; i < object->segments_len; i++) {
		const Elf64_Phdr *segment = &object->segments[i];
		if (!is_data(segment))
			continue;
		char *to = (char *) (object->base + segment->p_vaddr + bias);
		for (size_t done = 0; done < segment->p_filesz; ) {
			ssize_t count = pread(file, to + done, segment->p_filesz - done, segment->p_offset + done);
			if (count < 0 && errno == EINTR)
				continue;
			if (count <= 0)
				return gotcha_fail(count ? errno : EIO, "reading %s: %s", object->path, count ? strerror(errno) : "it is shorter than when it was mapped");
			done += count;
		}
	}
	return 0;
}

static int map_object(struct libset *set, size_t index, uintptr_t image) {
	const struct object *object = &gotcha_objects[index];
	struct image_object *place = &gotcha_image[index];
	uintptr_t bias = image + place->offset - object->start;
	int file = open_object(object, place);
	if (file < 0)
		return file;
	int error = map_text(object, place, bias, file);
	size_t size = place->data_end - place->data_start;
	if (!error && size)
		error = map_at(place->data_start + bias, size, PROT_READ | PROT_WRITE, MAP_SHARED, set->data_file,
			place->data_offset - set->data_file_start, object);
	if (!error && size)
		error = read_data(object, bias, file);
	close(file);
	set->copies[index].base = object->base + bias;
	set->copies[index].tls_module = object->tls_module;
	return error;
}

/* The data files of late objects are files of their own. */
int gotcha_image_map(struct libset *set, size_t from, size_t to) {
	set->image = arena + (set->number - 1) * stride;
	set->data_file_start = UINTPTR_MAX;
	uintptr_t end = 0;
	for (size_t i = from; i < to; i++)
		if (gotcha_image[i].present) {
			if (gotcha_image[i].data_offset < set->data_file_start)
				set->data_file_start = gotcha_image[i].data_offset;
			end = gotcha_image[i].data_offset + gotcha_image[i].data_end - gotcha_image[i].data_start;
		}
	if (!end)
		return 0;
	struct rlimit largest;
	/* the kernel does not return this as an error, but sends a signal */
	if (!getrlimit(RLIMIT_FSIZE, &largest) && largest.rlim_cur < end - set->data_file_start)
		return gotcha_fail(EFBIG, "memory file of a libset: larger than files may be (RLIMIT_FSIZE)");
	set->data_file = memfd_create("libgotcha-libset", MFD_CLOEXEC);
	if (set->data_file < 0 || ftruncate(set->data_file, end - set->data_file_start))
		return gotcha_fail(errno, "memory file of a libset: %s", strerror(errno));
	int error = 0;
	for (size_t i = from; !error && i < to; i++)
		if (gotcha_image[i].present)
			error = map_object(set, i, set->image);
	return error;
}

static int add_snapshot(struct libset *set, uintptr_t from, uintptr_t to, char *pristine) {
	struct snapshot *grown = realloc(set->snapshots, (set->snapshots_len + 1) * sizeof *grown);
	if (!grown)
		return gotcha_fail(ENOMEM, "no memory to describe libset %ld", set->number);
	set->snapshots = grown;
	set->snapshots[set->snapshots_len++] = (struct snapshot) { (char *) from, to - from, pristine };
	return 0;
}

int gotcha_image_seal(struct libset *set, size_t from, size_t to) {
	uintptr_t end = 0;
	for (size_t i = from; i < to; i++)
		if (gotcha_image[i].present)
			end = gotcha_image[i].data_offset + gotcha_image[i].data_end - gotcha_image[i].data_start;
	if (!end)
		return 0;
	size_t snapshots_len = set->snapshots_len;
	/* private too: the pristine state may change, and in the child of a fork it does so for the child alone */
	char *view = mmap(NULL, end - set->data_file_start, PROT_READ | PROT_WRITE, MAP_PRIVATE, set->data_file, 0);
	int error = view == MAP_FAILED ? gotcha_fail(errno, "mapping the pristine state of a libset: %s", strerror(errno)) : 0;
	for (size_t i = from; !error && i < to; i++) {
		const struct image_object *place = &gotcha_image[i];
		const struct object *object = &gotcha_objects[i];
		if (!place->present || place->data_start == place->data_end)
			continue;
		uintptr_t bias = set->copies[i].base - object->base, offset = place->data_offset - set->data_file_start;
		error = map_at(place->data_start + bias, place->data_end - place->data_start, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			set->data_file, offset, object);
		/* what is read-only after relocation is not written, although compact mappings do not enforce it */
		uintptr_t written = object->relro_end > place->data_start && object->relro_start <= place->data_start
			? object->relro_end : place->data_start;
		if (!error && written < place->data_end)
			error = add_snapshot(set, written + bias, place->data_end + bias, view + offset + (written - place->data_start));
	}
	if (error && view != MAP_FAILED) {
		set->snapshots_len = snapshots_len;
		munmap(view, end - set->data_file_start);
	}
	close(set->data_file);
	set->data_file = -1;
	return error;
}

void gotcha_image_unmap(struct libset *set, size_t from, size_t to) {
	if (!set->image)
		return;
	if (set->data_file > 0)
		close(set->data_file);
	set->data_file = -1;
	for (size_t i = from; i < to; i++) {
		if (!gotcha_image[i].present)
			continue;
		mmap((void *) (set->image + gotcha_image[i].offset), gotcha_objects[i].end - gotcha_objects[i].start, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		set->copies[i].base = set->copies[i].tls_module = 0;
	}
}
