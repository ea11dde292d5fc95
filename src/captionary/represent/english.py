"""The English that the concept tokenizer knows: what holds a sentence together, what relates things."""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "AUXILIARIES",
    "BREAKS",
    "COORDINATORS",
    "LEMMAS",
    "NOUNS_IN_ING",
    "NOUNS_IN_LY",
    "PARTICLES",
    "PLACES",
    "POSTURES",
    "PREPOSITIONS",
    "PRONOUNS",
    "SKIPPED",
    "VERBS",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Canonical relation of a preposition; "" relates too loosely to be worth a phrase ("at night", "for a walk").
PREPOSITIONS: dict[str, str] = {
    "on": "on", "upon": "on", "onto": "on", "atop": "on", "on top of": "on", "over top of": "on",
    "on the edge of": "on",
    "under": "under", "underneath": "under", "beneath": "under", "below": "under",
    "next to": "next to", "beside": "next to", "by": "next to", "near": "next to", "near to": "next to",
    "close to": "next to", "alongside": "next to", "adjacent to": "next to", "at the side of": "next to",
    "by the side of": "next to", "on the side of": "next to", "to the left of": "next to",
    "to the right of": "next to",
    "behind": "behind", "in back of": "behind", "beyond": "behind",
    "in front of": "in front of",
    "above": "above", "over": "above",
    "in": "in", "inside": "in", "inside of": "in", "into": "in", "within": "in", "in the middle of": "in",
    "with": "with", "through": "through", "against": "against", "between": "between", "among": "between",
    "around": "around", "across": "across", "along": "along", "past": "past",
    "at": "", "from": "", "to": "", "for": "", "towards": "", "toward": "", "off": "", "off of": "", "up": "",
    "down": "", "out": "", "out of": "", "as": "", "during": "", "after": "", "before": "", "about": "",
    "without": "", "like": "", "outside": "", "outside of": "", "via": "",
}  # fmt: skip

# Verbs that say how something is there, not what it does: "sitting on" is "on".
POSTURES = _words(
    """
    sit lie stand rest perch place locate park parked seat lean lounge recline relax sprawl situate position
    set hang float wait pose appear remain stay nestle balance arrange display
    """
)

# Verbs that captions use in finite forms ("a man rides a horse"); any form in -ing counts as a verb anyway.
VERBS = _words(
    """
    attach bend bite blow bounce brush build buy call catch celebrate chase chat cheer chew clap clean climb
    collide cook cover crawl cross crouch cut dance decorate dig dive do drag draw dress drink drive dunk
    eat enjoy enter examine exercise fall feed fetch fight fill fish float fly follow gallop gather get give
    go grab graze grin hang have head help hike hit hold hop hug jog jump keep kick kiss kneel land laugh
    launch lead lean leap leave lick lie lift listen look make move nap navigate observe open paddle paint
    pass peek peer perform pet pick pitch play point practice prepare pull push put raise reach read rest
    return ride roll row rub run rush sail scream search sell serve set shake share shoot shout show sing
    sit skate ski sled sleep slide smell smile smoke sniff snowboard speak spin splash spray squat stand
    stare step stick stretch stroll struggle study surf surround sweep swim swing tackle take talk teach
    tend throw tie toss touch tow travel trot try tumble turn use visit wade walk wander wash watch wave
    wear work wrap wrestle write yawn yell
    """
)

# Nouns that would pass for a verb in -ing, and for an adverb in -ly.
NOUNS_IN_ING = _words(
    """
    awning bedding being boxing building ceiling clearing clothing crossing dining drawing duckling dumpling
    earring evening flooring icing landing lightning living morning painting parking pudding railing
    seasoning sibling sling spring stocking string swing thing topping viking wedding wrapping
    """
)
NOUNS_IN_LY = _words("ally assembly belly bully butterfly dragonfly family holly jelly lily")

# Lemmas that a dictionary gets wrong for pictures, and verbs that come to the same in one.
LEMMAS: dict[str, str] = {
    "carry": "hold", "grip": "hold", "clutch": "hold", "grasp": "hold", "embrace": "hug", "cuddle": "hug",
    "laying": "lie", "lay": "lie", "lays": "lie", "laid": "lie", "sitting": "sit", "sat": "sit",
    "seated": "sit", "playing": "play", "swinging": "swing", "hanging": "hang", "fishing": "fish",
    "standing": "stand", "parked": "parked", "shorts": "shorts", "sunglasses": "sunglasses",
    "glasses": "glasses", "goggles": "goggles", "leaves": "leaf", "woods": "woods", "gray": "grey",
    "colored": "coloured", "striped": "striped", "policemen": "policeman", "policewomen": "policewoman",
    "snowmen": "snowman",
}  # fmt: skip

ADJECTIVES = _words(
    """
    red orange yellow green blue purple pink brown black white grey golden silver gold beige tan violet
    turquoise dark light bright pale colourful colorful coloured striped spotted plaid blond blonde brunette
    young old elderly tall short long high low wet dry dirty clean hot cold happy sad angry cute beautiful
    pretty empty full open closed round square flat deep shallow heavy rocky snowy grassy sandy muddy dusty
    icy sunny cloudy busy crowded wooden metal plastic shirtless barefoot bald fat thin fluffy furry hairy
    asian male female modern ancient fresh ripe steep rough smooth narrow wide outdoor indoor
    """
)

# Neither the end of a noun phrase nor a token: size, number, degree.
SKIPPED = _words(
    """
    big small large little tiny huge giant medium sized great massive enormous very quite too so one two
    three four five six seven eight nine ten dozen several many few multiple various different other another
    single double both pair couple group bunch set lot lots number row piece pieces kind type together apart
    away nearby just also still almost partially mid same own such each every all some any more most half
    part top middle side front back edge end closeup close-up
    """
)

# End a noun phrase and say nothing themselves.
BREAKS = _words(
    """
    a an the this that these those his her its their my your our what which whose here there who whom where
    when while whilst why how if then than not no nor of is are was were be been being am can could will
    would may might must shall should do does did i you we he she they himself herself itself themselves
    something someone somebody anything anyone everyone everybody nothing none background foreground
    distance picture photo photograph image view scene shot
    """
)
AUXILIARIES = _words("is are was were be been being to can could will would has have had")
# After a verb they only colour it ("holding up a guitar"); elsewhere they relate too loosely.
PARTICLES = _words("up down out off")
PRONOUNS = _words("it them him")
COORDINATORS = _words("and or & plus")

# Where and when a scene is: tokens of their own, and no end of a relation phrase.
PLACES = _words(
    """
    beach forest city desert mountain snow park farm kitchen bedroom stage street road field room bathroom
    garden yard backyard woods jungle town village office restaurant store shop market station airport
    school classroom playground stadium gym court countryside country meadow lawn hallway gallery museum
    church house home night day daytime sunset sunrise dusk dawn evening morning afternoon noon winter
    summer spring autumn weather rain sunlight sunshine moonlight darkness world area environment location
    setting place air outdoors indoors
    """
)
