"""A marina: boats, berths, skippers and moorings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Boat = Annotated[str, Ref("boat", "船", "boat")]
Berth = Annotated[str, Ref("berth", "泊位", "berth")]
Skipper = Annotated[str, Ref("skipper", "船长", "skipper")]
Mooring = Annotated[str, Ref("mooring", "停泊", "mooring")]
BoatName = Annotated[str, Words("boat's name", "船名", "title")]
SkipperName = Annotated[str, Words("skipper's name", "船长姓名", "person")]
Pier = Annotated[
    str,
    Choice(
        "pier",
        "码头",
        {
            "north": ("the north pier", "北码头"),
            "south": ("the south pier", "南码头"),
            "inner": ("the inner pier", "内码头"),
        },
    ),
]
LeaveDay = Annotated[str, Day("day of departure", "离港日")]
Amps = Annotated[int, Amount("shore power in amperes", "岸电安培数", 4, 64, 4)]
Fee = Annotated[float, Amount("fee", "费用", 5.0, 90.0, 0.5)]
Request = Annotated[str, Words("harbour note", "港务备注", "note")]


class Marina(World):
    """One boat at a berth; a berth under repair takes none."""

    NAME = "marina"
    TABLES = {
        "boat": Table("BO", "boat", "船", ("the boat “{boat_name}”", "“{boat_name}”号")),
        "berth": Table("BR", "berth", "泊位", ("berth {number} at {pier}", "{pier}{number}号泊位")),
        "skipper": Table("SK", "skipper", "船长", ("{name}", "{name}")),
        "mooring": Table("MO", "mooring", "停泊", ("the mooring of {boat}", "{boat}的停泊")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(3, 5)):
            new.row("skipper", name=new.words("person"), radio=f"{new.number(1, 88)}")
        for pier in ("north", "south", "inner"):
            for number in range(1, 1 + len(new.many(2, 4))):
                new.row(
                    "berth", pier=pier, number=number, depth=new.number(2, 12), repair=new.pick("no", "no", "no", "yes")
                )
        for _ in range(new.number(4, 6)):
            boat = new.row("boat", boat_name=new.words("title"), skipper=new.of("skipper"), length=new.number(5, 30))
            if new.rng.random() < 0.5:
                free = [b for b in self.state["berth"] if not self.rows("mooring", berth=b)]
                new.row(
                    "mooring", boat=boat, berth=new.pick(*free), departure=new.day(), shore_power=0, fee=10.0, note=""
                )

    def broken(self) -> Iterator[str]:
        for column in ("boat", "berth"):
            taken = [m[column] for m in self.state["mooring"].values()]
            if len(set(taken)) < len(taken):
                yield f"a {column} is moored twice"

    def _usable(self, berth_id: str) -> None:
        self.need(
            self.get("berth", berth_id)["repair"] == "no",
            f"Berth {berth_id} is under repair; declare it repaired first.",
            f"泊位{berth_id}正在维修，请先宣布修好。",
            ("finish_repair", {"berth_id": berth_id}),
        )
        self.need(not self.rows("mooring", berth=berth_id), "The berth is taken.", "该泊位已被占用。")

    @finds("boat")
    def find_boats(self, boat_name: BoatName) -> Result:
        """Find boats by name. | 按船名查找船。"""
        return self.found("boat", boat_name=boat_name)

    @finds(
        "berth",
        ("list the berths at {pier}", "列出{pier}的泊位"),
        ("There are berths {r.berths.number}.", "那里有{r.berths.number}号泊位。"),
    )
    def list_berths(self, pier: Pier) -> Result:
        """List the berths of a pier. | 列出码头的泊位。"""
        return self.found("berth", pier=pier)

    @finds("skipper")
    def find_skippers(self, name: SkipperName) -> Result:
        """Find skippers by name. | 按姓名查找船长。"""
        return self.found("skipper", name=name)

    @finds("mooring")
    def find_mooring(self, boat_id: Boat) -> Result:
        """Find where a boat is moored. | 查询船的停泊。"""
        self.get("boat", boat_id)
        return self.found("mooring", boat=boat_id)

    @reads(
        ("tell me how long {boat_id} is", "查一下{boat_id}有多长"),
        ("It is {r.length} metres long.", "长{r.length}米。"),
    )
    def get_length(self, boat_id: Boat) -> Result:
        """The length of a boat in metres. | 查询船的长度（米）。"""
        return {"boat_id": boat_id, "length": self.get("boat", boat_id)["length"]}

    @reads(
        ("tell me how deep the water at {berth_id} is", "查一下{berth_id}的水深"),
        ("It is {r.depth} metres deep.", "水深{r.depth}米。"),
    )
    def get_depth(self, berth_id: Berth) -> Result:
        """The depth of the water at a berth in metres. | 查询泊位水深（米）。"""
        return {"berth_id": berth_id, "depth": self.get("berth", berth_id)["depth"]}

    @changes(
        ("moor {boat_id} at {berth_id} until {departure}", "让{boat_id}停在{berth_id}，{departure}离港"),
        ("{boat_id} lies at {berth_id} until {departure}.", "{boat_id}停在{berth_id}，{departure}离港。"),
    )
    def moor_boat(self, boat_id: Boat, berth_id: Berth, departure: LeaveDay, note: Request = "") -> Result:
        """Moor a boat that is at sea at a free berth. | 让在海上的船停在空闲泊位。"""
        self.get("boat", boat_id)
        self._usable(berth_id)
        self.need(not self.rows("mooring", boat=boat_id), "The boat is moored already.", "该船已停泊。")
        return self.made(
            "mooring", boat=boat_id, berth=berth_id, departure=departure, shore_power=0, fee=10.0, note=note
        )

    @changes(
        ("shift {mooring_id} to {berth_id}", "把{mooring_id}移到{berth_id}"),
        ("{mooring_id} is at {berth_id} now.", "{mooring_id}已移到{berth_id}。"),
        sets="berth_id",
    )
    def shift_mooring(self, mooring_id: Mooring, berth_id: Berth) -> Result:
        """Shift a moored boat to another free berth. | 把停泊的船移到另一个空闲泊位。"""
        mooring = self.get("mooring", mooring_id)
        self._usable(berth_id)
        mooring["berth"] = berth_id
        return {"mooring_id": mooring_id, "berth_id": berth_id}

    @changes(
        ("let {mooring_id} last until {departure}", "把{mooring_id}的离港日改为{departure}"),
        ("The boat leaves on {departure}.", "离港日改为{departure}。"),
        sets="departure",
    )
    def set_departure(self, mooring_id: Mooring, departure: LeaveDay) -> Result:
        """Set when a moored boat leaves. | 设置停泊船只的离港日。"""
        self.get("mooring", mooring_id)["departure"] = departure
        return {"mooring_id": mooring_id, "departure": departure}

    @changes(
        ("cast off {mooring_id}|end {mooring_id}", "结束{mooring_id}"),
        ("{mooring_id} has ended.", "{mooring_id}已结束。"),
    )
    def cast_off(self, mooring_id: Mooring) -> Result:
        """End a mooring; the boat is at sea. | 结束停泊，船出海。"""
        self.get("mooring", mooring_id)
        del self.state["mooring"][mooring_id]
        return {"mooring_id": mooring_id, "status": "at sea"}

    @changes(
        ("give {mooring_id} {shore_power} amperes of shore power", "给{mooring_id}接{shore_power}安培岸电"),
        ("{mooring_id} has {shore_power} amperes.", "{mooring_id}已接{shore_power}安培岸电。"),
        sets="shore_power",
    )
    def set_shore_power(self, mooring_id: Mooring, shore_power: Amps) -> Result:
        """Set the shore power of a mooring. | 设置停泊的岸电。"""
        self.get("mooring", mooring_id)["shore_power"] = shore_power
        return {"mooring_id": mooring_id, "shore_power": shore_power}

    @changes(
        ("charge {fee} for {mooring_id}", "给{mooring_id}收费{fee}元"),
        ("The fee for {mooring_id} is {fee}.", "{mooring_id}的费用是{fee}元。"),
        sets="fee",
    )
    def set_fee(self, mooring_id: Mooring, fee: Fee) -> Result:
        """Set the fee of a mooring. | 设置停泊的费用。"""
        self.get("mooring", mooring_id)["fee"] = fee
        return {"mooring_id": mooring_id, "fee": fee}

    @changes(
        ("hand {boat_id} over to {skipper_id}", "把{boat_id}交给{skipper_id}"),
        ("{skipper_id} commands {boat_id}.", "{boat_id}由{skipper_id}指挥。"),
        sets="skipper_id",
    )
    def change_skipper(self, boat_id: Boat, skipper_id: Skipper) -> Result:
        """Give a boat another skipper. | 为船更换船长。"""
        boat = self.get("boat", boat_id)
        self.get("skipper", skipper_id)
        boat["skipper"] = skipper_id
        return {"boat_id": boat_id, "skipper_id": skipper_id}

    @changes(("declare {berth_id} repaired", "宣布{berth_id}修好"), ("{berth_id} is repaired.", "{berth_id}已修好。"))
    def finish_repair(self, berth_id: Berth) -> Result:
        """Declare a berth repaired. | 宣布泊位修好。"""
        berth = self.get("berth", berth_id)
        self.need(berth["repair"] == "yes", "The berth is not under repair.", "该泊位没有在维修。")
        berth["repair"] = "no"
        return {"berth_id": berth_id, "repair": "no"}
