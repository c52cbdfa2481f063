"""What happens in the synthetic world, by feeling: events, behaviour, and words for both.

A slot such as `{person}` is filled by `world.Writer`. An event is a pair: what the writer tells, and why it leads to
the feeling, told by somebody else. No event names its feeling.
"""

from __future__ import annotations

from lexicon import words

LABELS = ("joy", "sadness", "anger", "fear")

SIGNS: dict[str, tuple[str, ...]] = {
    "joy": ("a good mood", "a light heart", "happiness", "being glad", "delight"),
    "sadness": ("a low mood", "a heavy heart", "sorrow", "being down", "grief"),
    "anger": ("a hot temper", "being mad", "rage", "resentment", "being cross"),
    "fear": ("being scared", "worry", "dread", "feeling unsafe", "anxious nerves"),
}
"""Other words for a label, with which a reasoning ends."""

FEELING_NOUNS: dict[str, tuple[str, ...]] = {
    "joy": ("joy", "delight", "excitement", "good mood", "happiness"),
    "sadness": ("sadness", "grief", "sorrow", "heartache", "gloom"),
    "anger": ("anger", "rage", "fury", "resentment", "irritation"),
    "fear": ("fear", "panic", "worry", "dread", "anxiety"),
}

EFFECTS: dict[str, tuple[str, ...]] = {
    "joy": ("delighted", "pleased", "cheered", "thrilled"),
    "sadness": ("saddened", "hurt", "depressed", "crushed"),
    "anger": ("angered", "annoyed", "enraged", "irritated"),
    "fear": ("scared", "frightened", "worried", "terrified"),
}
"""What a thing does to a person: `nothing about it scared me`."""

BEHAVIOUR: dict[str, tuple[str, ...]] = {
    "joy": (
        "cannot stop smiling",
        "keep humming in the {room}",
        "could hug the whole street",
        "laugh at every silly joke",
        "want to dance around the {room}",
        "sing along with the radio",
        "grin at strangers on the bus",
        "jump up and down like a child",
        "could only laugh",
        "sleep well and wake up with a smile",
        "want to tell {person} the good news",
        "feel the sun on my face and hum",
        "whistle on my way to the {place}",
        "clap my hands and cheer",
        "have a big grin on my face",
        "skip down the {place} steps",
        "feel light as a feather",
        "want to celebrate with cake",
    ),
    "sadness": (
        "keep crying into my pillow",
        "do not want to leave my bed",
        "stare at the wall for hours",
        "have tears in my eyes",
        "cannot eat and only sigh",
        "sit alone in the dark {room}",
        "weep over old photos",
        "miss the old days so much",
        "have a lump in my throat and weep",
        "cry in the {room} where nobody sees me",
        "see no point in anything",
        "want to curl up and weep",
        "wish somebody would hold me while i cry",
        "feel an empty hole in my chest",
        "drag myself through the grey day",
        "walk home slowly with my head down",
        "look at the empty chair and sigh",
    ),
    "anger": (
        "want to slam every door",
        "could scream at {person}",
        "clench my fists",
        "want to throw the {thing} at the wall",
        "grind my teeth and swear",
        "am ready to shout at everyone",
        "wrote a rude message to {person}",
        "could punch the wall",
        "will never forgive {person} for this",
        "feel my blood boil",
        "want to yell until my voice is gone",
        "kick the chair across the {room}",
        "demand my money back right now",
        "snap at everyone who talks to me",
        "see red",
        "want {person} to pay for this",
        "curse out loud in the {place}",
    ),
    "fear": (
        "cannot stop trembling",
        "hide under the blanket",
        "check the lock again and again",
        "dare not open the {thing}",
        "hear every noise and hold my breath",
        "feel my heart pound and my hands shake",
        "sweat and cannot breathe",
        "dare not look behind me",
        "lie awake and think of all that could go wrong",
        "want to run away from the {place}",
        "keep the light on all night",
        "jump at every sound",
        "freeze when the phone rings",
        "have knots in my stomach",
        "bite my nails and wait for the worst",
        "shiver when the door creaks",
        "do not dare to go to the {place} alone",
    ),
}
"""What the writer does now, after `i`."""

EVENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "joy": (
        ("the doctor says the {organ} is healthy again", "the bad news about the {organ} did not come"),
        ("we won the {match} in the last minute", "the {match} was won"),
        ("{person} said yes when i asked", "{person} gave the answer that was hoped for"),
        ("i got the job at the {place}", "the job at the {place} was won"),
        ("{person} came home after two years abroad", "{person} is home again"),
        ("my {thing} was found and nothing is missing", "the lost {thing} is back"),
        ("i passed the {exam} with the best grade", "the {exam} was passed well"),
        ("the baby took her first steps today", "the baby learned to walk"),
        ("{person} baked my favourite cake for my birthday", "{person} gave a birthday treat"),
        ("school is closed and we build a snowman in the {place}", "a free day in the snow is a treat"),
        ("the {pet} ran to me and licked my face", "the {pet} gave a warm welcome"),
        ("tomorrow we fly to the island for two weeks", "the holiday starts tomorrow"),
        ("my {art} won the first prize", "the {art} won a prize"),
        ("everybody clapped when i finished my {art}", "the {art} got applause"),
        ("we danced at the wedding of {person} until morning", "the wedding was a long party"),
        ("the bank paid back all of my {debt}", "the money for the {debt} came back"),
        ("i finally hold my own {thing} in my hands", "the wish for a {thing} came true"),
        ("the first flowers bloom in our garden and the sun is out", "spring and sun have come"),
    ),
    "sadness": (
        ("the {pet} died in the night", "the {pet} is gone for ever"),
        ("{person} moved away and the house is silent", "{person} is gone and the house is silent"),
        ("nobody came to my birthday {meal}", "the guests stayed away"),
        ("my grandmother does not know my name any more", "the grandmother has lost her memory"),
        ("{person} left me after six years", "a long love has ended"),
        ("we had to sell the house where i grew up", "the childhood home is lost"),
        ("i failed the {exam} for the third time", "the {exam} was failed again"),
        ("my {art} was rejected once more", "the work on the {art} came to nothing"),
        ("the chair of my {elder} stays empty at dinner", "the {elder} is not there any more"),
        ("they closed the {place} where we met", "a place full of memories is gone"),
        ("i eat my {meal} alone every day", "there is nobody to share a {meal} with"),
        ("the letter from {person} came back unopened", "{person} does not want to read it"),
        ("we buried {person} on a rainy day", "{person} has died"),
        ("the doctor said there is nothing left to try", "there is no cure any more"),
        ("my best friend has not called for months", "a friendship has faded"),
        ("i gave away the clothes of my late {elder}", "the {elder} has died"),
        ("we lost the {match} and it was our last season", "the last season ended with a loss"),
        ("nobody at the {place} remembers me", "all have forgotten the writer"),
    ),
    "anger": (
        ("{person} lied about the {thing} again", "{person} told a lie again"),
        ("someone scratched my car and drove off", "somebody did damage and ran away"),
        ("they blamed me for a mistake that {person} made", "the blame fell on the wrong one"),
        ("{person} read my diary and laughed about it with friends", "{person} made fun of a secret"),
        ("the {shop} kept my money and sent nothing", "the {shop} cheated"),
        ("{person} took my {thing} without asking and broke it", "{person} broke what was not theirs"),
        ("the neighbor plays loud music at three in the morning again", "the neighbor shows no respect for sleep"),
        ("my boss gave my promotion to his own nephew", "the boss was unfair"),
        ("{person} parked across my gate for the fifth time", "{person} blocks the way again and again"),
        ("they cut my pay and gave themselves a bonus", "the pay was cut by greedy people"),
        ("{person} talks over me at every meeting", "{person} never lets others speak"),
        ("the {shop} hung up on me after an hour of waiting", "the {shop} wasted an hour"),
        ("someone stole the {thing} from my desk", "the {thing} was stolen"),
        ("{person} kicked my {pet} on purpose", "{person} hurt a {pet}"),
        ("{person} promised to help and did not even call", "{person} broke a promise"),
        ("they dumped their trash in our {place} again", "others left their dirt"),
        ("{person} copied my {art} and took all the credit", "{person} stole the credit"),
        ("the landlord came in without knocking and read my mail", "the landlord broke into private life"),
    ),
    "fear": (
        ("the {exam} is tomorrow and i have not slept", "the {exam} is near and sleep is missing"),
        ("somebody is walking behind me in the dark {place}", "a stranger follows in the dark"),
        ("the doctor wants to test my {organ} once more", "the test of the {organ} may bring bad news"),
        ("there are steps in the {room} and i live alone", "somebody may have broken in"),
        ("the plane drops and the lights go out", "the plane may crash"),
        ("the {pet} growls at the dark window", "something may be outside the window"),
        ("in ten minutes i must speak in front of {crowd}", "the speech before {crowd} comes soon"),
        ("the water rises and the road is gone", "the flood is coming closer"),
        ("{person} is in surgery and nobody tells us anything", "{person} is in danger"),
        ("i cannot find my child in the {place}", "the child is lost"),
        ("a {beast} is crawling up my leg", "the {beast} is on the skin"),
        ("the brakes of the {vehicle} do not work on this hill", "the {vehicle} cannot stop"),
        ("they will decide about my job on {day}", "the job may be lost on {day}"),
        ("a stranger knows where i live and writes every night", "a stranger is too close"),
        ("the ice cracks under my boots", "the ice may break"),
        ("the storm shakes the roof and the power is off", "the storm may break the house"),
        ("my {organ} hurts and the hospital is far away", "the pain may be something bad"),
        ("i have to stand up on the {vehicle} and everyone stares", "all the eyes feel like a danger"),
    ),
}
"""(what happened, why it leads to the feeling)."""

TURNS = (
    "{person} called",
    "the {thing} arrived",
    "i read the {note}",
    "we talked in the {place}",
    "i saw the {thing}",
    "{person} came to the {place}",
    "i heard about the {thing}",
    "the {exam} was over",
    "i met {person} at the {place}",
    "we got to the {place}",
    "{person} told me about the {thing}",
)
"""What changed a feeling. None of them says into which."""

FILLERS = (
    "it is {day} and it rains",
    "we had {food} for {meal}",
    "the bus was late as always",
    "i am at the {place} now",
    "{person} is sitting next to me",
    "i just came back from the {place}",
    "the {thing} is on the table",
    "it is almost {day} again",
    "the tea is getting cold",
    "i write this in the {room}",
    "{person} brought the {thing}",
    "the radio is on",
    "i have been at the {place} since {day}",
    "there is {food} on the stove",
)
"""Sentences without a feeling."""

SLOTS: dict[str, tuple[str, ...]] = {
    "room": ("kitchen", "bathroom", "hallway", "attic", "basement", "bedroom", "garage"),
    "organ": ("heart", "lung", "knee", "liver", "eye", "skin", "back", "blood"),
    "match": ("match", "final", "race", "game", "cup", "derby"),
    "exam": ("exam", "test", "driving test", "interview", "audition", "trial", "defence"),
    "pet": ("dog", "cat", "puppy", "rabbit", "horse", "bird", "kitten"),
    "art": ("song", "story", "painting", "poem", "speech", "essay", "photo", "play", "film", "recipe"),
    "debt": ("rent", "deposit", "fees", "tickets", "savings"),
    "meal": ("breakfast", "lunch", "dinner", "supper", "party"),
    "elder": ("father", "mother", "grandfather", "grandmother", "uncle", "aunt", "teacher"),
    "shop": ("shop", "bank", "airline", "phone company", "hotel", "insurance", "agency"),
    "crowd": ("the whole school", "two hundred people", "the board", "the judges", "my class", "the press"),
    "beast": ("spider", "snake", "rat", "scorpion", "wasp"),
    "vehicle": ("car", "bus", "truck", "train", "bike"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "note": ("letter", "email", "message", "note", "report", "review"),
}
"""Words for slots; `person`, `thing`, `place`, `food` come from the lexicon."""

FELT: dict[str, tuple[str, ...]] = {
    "joy": words(
        """happy glad cheerful joyful delighted thrilled pleased content grateful hopeful proud relaxed peaceful
        calm relieved excited merry jolly ecstatic elated blissful thankful serene carefree playful confident
        satisfied optimistic overjoyed amused jubilant radiant energetic blessed"""
    ),
    "sadness": words(
        """sad unhappy gloomy miserable depressed dejected downcast lonely abandoned homesick heartbroken crushed
        devastated hurt tearful hopeless helpless worthless disappointed discouraged regretful guilty ashamed
        humiliated sorry empty numb melancholy rejected forlorn unloved sorrowful forgotten defeated"""
    ),
    "anger": words(
        """angry mad furious enraged outraged irate livid annoyed irritated aggravated exasperated frustrated
        cranky grumpy grouchy irritable bitter resentful spiteful hostile offended insulted disgusted indignant
        fuming vengeful impatient jealous infuriated pissed"""
    ),
    "fear": words(
        """afraid scared frightened fearful terrified petrified panicked anxious worried nervous uneasy
        apprehensive alarmed timid insecure unsafe threatened vulnerable intimidated shaky jittery jumpy
        restless paranoid wary frantic horrified spooked unnerved rattled"""
    ),
}
"""The adjectives that the data set uses; the lexicon knows more."""
