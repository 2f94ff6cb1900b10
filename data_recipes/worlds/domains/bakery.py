"""A bakery's order book: cakes, patrons and orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Cake = Annotated[str, Ref("cake", "蛋糕", "cake")]
Patron = Annotated[str, Ref("patron", "顾客", "patron")]
Order = Annotated[str, Ref("cake order", "蛋糕订单", "order")]
CakeName = Annotated[str, Words("cake's name", "蛋糕名称", "title")]
PatronName = Annotated[str, Words("patron's name", "顾客姓名", "person")]
Slices = Annotated[int, Amount("number of slices", "块数", 4, 48, 2)]
PickupDay = Annotated[str, Day("pickup day", "取货日")]
Icing = Annotated[str, Words("icing text", "裱花文字", "task")]
Topping = Annotated[
    str,
    Choice(
        "topping",
        "点缀",
        {
            "cherry": ("cherries", "樱桃"),
            "almond": ("almonds", "杏仁"),
            "cocoa": ("cocoa", "可可"),
            "none": ("no topping", "无点缀"),
        },
    ),
]
Price = Annotated[float, Amount("price of a slice", "每块价格", 1.0, 9.0, 0.5)]


class Bakery(World):
    """Cakes that are off the menu are not ordered; a boxed order does not change."""

    NAME = "bakery"
    TABLES = {
        "cake": Table("CK", "cake", "蛋糕", ("the cake “{cake_name}”", "“{cake_name}”蛋糕")),
        "patron": Table("PN", "patron", "顾客", ("{name}", "{name}")),
        "order": Table(
            "OR", "cake order", "蛋糕订单", ("{patron}'s order for {pickup_day}", "{patron}{pickup_day}取的订单")
        ),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(4, 6)):
            new.row(
                "cake",
                cake_name=new.words("title"),
                slice_price=new.number(2, 18) / 2,
                menu=new.pick("on", "on", "on", "off"),
            )
        for _ in range(new.number(4, 6)):
            new.row("patron", name=new.words("person"), points=new.number(0, 300))
        for _ in new.many(4, 6):
            new.row(
                "order",
                patron=new.of("patron"),
                cake=new.of("cake"),
                slices=new.number(2, 20) * 2,
                pickup_day=new.day(),
                icing="",
                topping="none",
                box=new.pick("open", "open", "closed"),
            )

    def broken(self) -> Iterator[str]:
        if any(order["slices"] < 1 for order in self.state["order"].values()):
            yield "an order without slices"

    def _open(self, order_id: str) -> None:
        self.need(
            self.get("order", order_id)["box"] == "open",
            f"Order {order_id} is boxed; unbox it first.",
            f"订单{order_id}已装盒，请先拆盒。",
            ("unbox_order", {"order_id": order_id}),
        )

    @finds("cake")
    def find_cakes(self, cake_name: CakeName) -> Result:
        """Find cakes by name. | 按名称查找蛋糕。"""
        return self.found("cake", cake_name=cake_name)

    @finds("patron")
    def find_patrons(self, name: PatronName) -> Result:
        """Find patrons by name. | 按姓名查找顾客。"""
        return self.found("patron", name=name)

    @finds(
        "order",
        ("list the orders of {patron_id}|look up what {patron_id} has ordered", "列出{patron_id}的订单"),
        ("{patron_id} picks up on: {r.orders.pickup_day}.", "{patron_id}的取货日：{r.orders.pickup_day}。"),
    )
    def list_orders_of(self, patron_id: Patron) -> Result:
        """List the orders of a patron. | 列出顾客的订单。"""
        self.get("patron", patron_id)
        return self.found("order", patron=patron_id)

    @reads(
        ("tell me the price of a slice of {cake_id}", "查一下{cake_id}每块多少钱"),
        ("A slice costs {r.slice_price}.", "每块{r.slice_price}元。"),
    )
    def get_price(self, cake_id: Cake) -> Result:
        """The price of one slice of a cake. | 查询蛋糕每块的价格。"""
        return {"cake_id": cake_id, "slice_price": self.get("cake", cake_id)["slice_price"]}

    @changes(
        (
            "order {slices} slices of {cake_id} for {patron_id}, to be picked up on {pickup_day}|take an order of {patron_id} for {slices} slices of {cake_id} on {pickup_day}",
            "为{patron_id}订{slices}块{cake_id}，{pickup_day}取",
        ),
        ("{slices} slices of {cake_id} are ordered for {pickup_day}.", "已订{slices}块{cake_id}，{pickup_day}取。"),
    )
    def order_cake(
        self, patron_id: Patron, cake_id: Cake, slices: Slices, pickup_day: PickupDay, icing: Icing = ""
    ) -> Result:
        """Order slices of a cake that is on the menu. | 订购菜单上的蛋糕。"""
        self.get("patron", patron_id)
        self.need(
            self.get("cake", cake_id)["menu"] == "on",
            f"Cake {cake_id} is off the menu; bring it back first.",
            f"蛋糕{cake_id}已下架，请先恢复。",
            ("bring_back_cake", {"cake_id": cake_id}),
        )
        return self.made(
            "order",
            patron=patron_id,
            cake=cake_id,
            slices=slices,
            pickup_day=pickup_day,
            icing=icing,
            topping="none",
            box="open",
        )

    @changes(
        ("change {order_id} to {slices} slices", "把{order_id}改为{slices}块"),
        ("The order is for {slices} slices.", "订单已改为{slices}块。"),
        sets="slices",
    )
    def set_slices(self, order_id: Order, slices: Slices) -> Result:
        """Change the slices of an order that is not boxed. | 修改未装盒订单的块数。"""
        self._open(order_id)
        self.state["order"][order_id]["slices"] = slices
        return {"order_id": order_id, "slices": slices}

    @changes(
        ("postpone {order_id} to {pickup_day}|move {order_id} to {pickup_day}", "把{order_id}改到{pickup_day}取"),
        ("The order is picked up on {pickup_day}.", "订单改到{pickup_day}取。"),
        sets="pickup_day",
    )
    def move_pickup(self, order_id: Order, pickup_day: PickupDay) -> Result:
        """Move an order to another pickup day. | 修改订单的取货日。"""
        self.get("order", order_id)["pickup_day"] = pickup_day
        return {"order_id": order_id, "pickup_day": pickup_day}

    @changes(
        ("write {icing} on {order_id}", "在{order_id}上裱{icing}"),
        ("{icing} will stand on {order_id}.", "{order_id}上会裱{icing}。"),
        sets="icing",
    )
    def write_icing(self, order_id: Order, icing: Icing) -> Result:
        """Write a text in icing on an order. | 在订单上裱字。"""
        self.get("order", order_id)["icing"] = icing
        return {"order_id": order_id, "icing": icing}

    @changes(
        ("put {topping} on {order_id}", "给{order_id}加{topping}"),
        ("{order_id} has {topping}.", "{order_id}已加{topping}。"),
    )
    def choose_topping(self, order_id: Order, topping: Topping) -> Result:
        """Choose the topping of an order that is not boxed. | 为未装盒的订单选择点缀。"""
        self._open(order_id)
        order = self.state["order"][order_id]
        self.need(order["topping"] != topping, "It has that already.", "已经是这种点缀。")
        order["topping"] = topping
        return {"order_id": order_id, "topping": topping}

    @changes(("box {order_id}", "把{order_id}装盒"), ("{order_id} is boxed.", "{order_id}已装盒。"))
    def box_order(self, order_id: Order) -> Result:
        """Box an order. | 把订单装盒。"""
        order = self.get("order", order_id)
        self.need(order["box"] == "open", "It is boxed already.", "订单已装盒。")
        order["box"] = "closed"
        return {"order_id": order_id, "box": "closed"}

    @changes(("unbox {order_id}", "把{order_id}拆盒"), ("{order_id} is out of its box.", "{order_id}已拆盒。"))
    def unbox_order(self, order_id: Order) -> Result:
        """Take an order out of its box. | 把订单拆盒。"""
        order = self.get("order", order_id)
        self.need(order["box"] == "closed", "It is not boxed.", "订单没有装盒。")
        order["box"] = "open"
        return {"order_id": order_id, "box": "open"}

    @changes(
        ("bring {cake_id} back onto the menu", "恢复{cake_id}"), ("{cake_id} is on the menu.", "{cake_id}已恢复。")
    )
    def bring_back_cake(self, cake_id: Cake) -> Result:
        """Put a cake back onto the menu. | 让蛋糕重新上架。"""
        cake = self.get("cake", cake_id)
        self.need(cake["menu"] == "off", "It is on the menu.", "该蛋糕在售。")
        cake["menu"] = "on"
        return {"cake_id": cake_id, "menu": "on"}

    @changes(
        ("price a slice of {cake_id} at {slice_price}", "把{cake_id}定价为每块{slice_price}元"),
        ("A slice of {cake_id} costs {slice_price}.", "{cake_id}每块{slice_price}元。"),
        sets="slice_price",
    )
    def set_price(self, cake_id: Cake, slice_price: Price) -> Result:
        """Set the price of one slice of a cake. | 设置蛋糕每块的价格。"""
        self.get("cake", cake_id)["slice_price"] = slice_price
        return {"cake_id": cake_id, "slice_price": slice_price}
