/* Letters of the font whose path is in FONT, hinted and not, at several sizes. */
#include "job.h"

#include <ft2build.h>
#include FT_FREETYPE_H
#include FT_OUTLINE_H

static uint64_t add_letter(uint64_t all, FT_Face face, FT_ULong letter, FT_Int32 flags) {
	REQUIRE(!FT_Load_Char(face, letter, flags));
	FT_GlyphSlot slot = face->glyph;
	FT_BBox box;
	FT_Outline_Get_CBox(&slot->outline, &box);
	all = digest(all, &box, sizeof box);
	REQUIRE(!FT_Render_Glyph(slot, FT_RENDER_MODE_NORMAL));
	all = digest_number(all, (uint64_t) slot->advance.x);
	for (unsigned y = 0; y < slot->bitmap.rows; y++)
		all = digest(all, slot->bitmap.buffer + (int) y * slot->bitmap.pitch, slot->bitmap.width);
	return all;
}

static uint64_t run(uint32_t seed) {
	FT_Library library;
	FT_Face face;
	REQUIRE(!FT_Init_FreeType(&library) && !FT_New_Face(library, getenv("FONT"), 0, &face));
	uint64_t all = digest_text(DIGEST_START, face->family_name);
	for (FT_UInt size = 9 + seed % 5; size < 60; size += 17) {
		REQUIRE(!FT_Set_Pixel_Sizes(face, 0, size));
		for (FT_ULong letter = '!'; letter < 0x7f; letter += 3) {
			all = add_letter(all, face, letter, FT_LOAD_DEFAULT);
			all = add_letter(all, face, letter, FT_LOAD_NO_BITMAP | FT_LOAD_FORCE_AUTOHINT);
		}
	}
	FT_Vector kerning;
	REQUIRE(!FT_Get_Kerning(face, FT_Get_Char_Index(face, 'A'), FT_Get_Char_Index(face, 'V'), FT_KERNING_DEFAULT, &kerning));
	all = digest(all, &kerning, sizeof kerning);
	REQUIRE(!FT_Done_Face(face) && !FT_Done_FreeType(library));
	return all;
}

const struct job jobs[] = { { .name = "freetype", .run = run }, { .name = NULL } };
