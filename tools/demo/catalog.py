"""What the demo model knows: emoji names in English and Chinese, colours, shapes, words and numbers.

The emoji names come from Unicode CLDR (annotations, type="tts"), the list of emoji from Unicode's emoji-test.txt.
Both are read from their Debian packages (unicode-cldr-core, unicode-data).
"""
import functools
import xml.etree.ElementTree as ElementTree

CLDR = "/usr/share/unicode/cldr/common/annotations/{}.xml"
EMOJI_TEST = "/usr/share/unicode/emoji/emoji-test.txt"

# Left out: signs and arrows, flags, clock faces (24 near twins) and plain coloured hearts (they are drawn as shapes).
SKIPPED_GROUPS = {"Symbols", "Flags", "Component"}
SKIPPED_HEARTS = {"red heart", "orange heart", "yellow heart", "green heart", "blue heart", "purple heart",
                  "brown heart", "black heart", "white heart"}

LANGUAGES = ("en", "zh")

COLOURS = [  # English, Chinese, RGB
    ("red", "红色", (220, 30, 35)), ("orange", "橙色", (245, 130, 20)), ("yellow", "黄色", (250, 215, 30)),
    ("green", "绿色", (40, 160, 60)), ("blue", "蓝色", (35, 80, 215)), ("purple", "紫色", (130, 45, 165)),
    ("pink", "粉色", (250, 140, 190)), ("brown", "棕色", (120, 72, 35)), ("black", "黑色", (18, 18, 18)),
    ("white", "白色", (248, 248, 248)), ("grey", "灰色", (128, 128, 128))]

SHAPES = [("circle", "圆形"), ("square", "正方形"), ("triangle", "三角形"), ("star", "星形"), ("heart", "心形"),
          ("diamond", "菱形"), ("cross", "十字形"), ("ring", "圆环")]

NUMBERS = [("one", "一个"), ("two", "两个"), ("three", "三个"), ("four", "四个"), ("five", "五个")]

WORDS = """APPLE BABY BACK BALL BANK BED BEER BIKE BIRD BLUE BOAT BOOK BOX BREAD BUS CAFE CAKE CALL CAR CAT CITY CLOSED
COFFEE COLD COOL DANGER DAY DOG DOOR DOWN EAST EGG ENTER EXIT FIRE FISH FOOD FREE GAME GATE GIFT GOLD GOOD GREEN HAND
HELLO HELP HERE HOME HOT HOTEL HOUSE ICE JUICE KEY KING LAKE LEFT LIFE LIGHT LOVE LUCK MAIL MAP MILK MOON MUSIC NEW
NEWS NIGHT NO NORTH OFF OLD ON OPEN PARK PLAY POST PULL PUSH QUIET RAIN RED RIGHT ROAD SALE SCHOOL SHOP SLOW SNOW SOUTH
STAR STOP SUN TAXI TEA TIME TOY TRAIN TREE UP WATER WELCOME WEST WIND YES ZOO""".split()


def _annotations(language):
    root = ElementTree.parse(CLDR.format(language)).getroot()
    return {a.get("cp"): a.text for a in root.iter("annotation") if a.get("type") == "tts"}


@functools.lru_cache(maxsize=None)
def emoji():
    """All objects as (character, English name, Chinese name), in the order of emoji-test.txt."""
    english, chinese = _annotations("en"), _annotations("zh")
    out, group, subgroup = [], "", ""
    with open(EMOJI_TEST, encoding="utf-8") as f:
        for line in f:
            if line.startswith("# group:"):
                group = line[8:].strip()
            elif line.startswith("# subgroup:"):
                subgroup = line[11:].strip()
            elif "; fully-qualified" in line and group not in SKIPPED_GROUPS:
                points = [int(p, 16) for p in line.split(";")[0].split() if p != "FE0F"]
                name = english.get(chr(points[0]))
                known = len(points) == 1 and name and chr(points[0]) in chinese
                clock = subgroup == "time" and (" o’clock" in (name or "") or "-thirty" in (name or ""))
                if known and not clock and name not in SKIPPED_HEARTS:
                    out.append((chr(points[0]), name, chinese[chr(points[0])]))
    return out


def objects():
    """The indices into emoji()."""
    return range(len(emoji()))


def words():
    """The indices into WORDS."""
    return range(len(WORDS))


def index_of(name):
    """The index of the emoji with this English name."""
    return next(i for i, e in enumerate(emoji()) if e[1] == name)


@functools.lru_cache(maxsize=None)
def dense_classes():
    """Number of visual classes: every emoji, every coloured shape, every word, and the background (the last)."""
    return len(emoji()) + len(SHAPES) * len(COLOURS) + len(WORDS) + 1
