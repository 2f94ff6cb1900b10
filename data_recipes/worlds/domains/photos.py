"""A photo archive: albums, pictures, shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from data_recipes.worlds.kinds import Amount, Choice, Day, Many, Ref, Words
from data_recipes.worlds.world import Maker, Result, Table, World, changes, finds, reads

Album = Annotated[str, Ref("album", "相册", "album")]
Picture = Annotated[str, Ref("picture", "照片", "picture")]
Pictures = Annotated[list[str], Many("pictures", "照片", Ref("picture", "照片", "picture"))]
Share = Annotated[str, Ref("share", "分享", "share")]
AlbumTitle = Annotated[str, Words("album title", "相册标题", "title")]
Caption = Annotated[str, Words("caption", "图注", "task")]
Stars = Annotated[int, Amount("number of stars", "星级", 1, 5)]
Keywords = Annotated[list[str], Many("keywords", "关键词", Words("keyword", "关键词", "tag"))]
Viewer = Annotated[str, Words("viewer's name", "查看人姓名", "person")]
Right = Annotated[
    str,
    Choice(
        "right",
        "权限",
        {"look": ("to look only", "仅查看"), "copy": ("to copy", "可下载"), "edit": ("to edit", "可编辑")},
    ),
]
LastDay = Annotated[str, Day("last day", "截止日")]


class Photos(World):
    """A sealed album takes no pictures and gives none away."""

    NAME = "photos"
    TABLES = {
        "album": Table("AL", "album", "相册", ("the album “{album_title}”", "相册“{album_title}”")),
        "picture": Table("PC", "picture", "照片", ("the picture {file_name} in {album}", "{album}里的{file_name}")),
        "share": Table("SH", "share", "分享", ("{viewer}'s share of {album}", "{album}给{viewer}的分享")),
    }

    def fill(self, new: Maker) -> None:
        for _ in range(new.number(3, 5)):
            album = new.row(
                "album", album_title=new.words("title"), cover=None, seal=new.pick("open", "open", "open", "sealed")
            )
            for _ in new.many(2, 5):
                new.row(
                    "picture",
                    album=album,
                    file_name=f"{new.words('slug')}.jpg",
                    caption="",
                    stars=new.number(1, 5),
                    keywords=[],
                    megabytes=new.number(1, 40),
                )
            if new.rng.random() < 0.6:
                new.row("share", album=album, viewer=new.words("person"), right="look", last_day=new.day())

    def broken(self) -> Iterator[str]:
        for id, album in self.state["album"].items():
            if album["cover"] is not None and self.state["picture"].get(album["cover"], {}).get("album") != id:
                yield f"the cover of {id} is not in it"

    def _open(self, album_id: str) -> None:
        self.need(
            self.get("album", album_id)["seal"] == "open",
            f"Album {album_id} is sealed; break the seal first.",
            f"相册{album_id}已封存，请先启封。",
            ("break_seal", {"album_id": album_id}),
        )

    @finds("album")
    def find_albums(self, album_title: AlbumTitle) -> Result:
        """Find albums by title. | 按标题查找相册。"""
        return self.found("album", album_title=album_title)

    @finds(
        "picture",
        ("list the pictures in {album_id}", "列出{album_id}里的照片"),
        ("It holds {r.pictures.file_name}.", "里面有{r.pictures.file_name}。"),
    )
    def list_pictures(self, album_id: Album) -> Result:
        """List the pictures of an album. | 列出相册里的照片。"""
        self.get("album", album_id)
        return self.found("picture", album=album_id)

    @finds("share")
    def list_shares(self, album_id: Album) -> Result:
        """List with whom an album is shared. | 列出相册的分享。"""
        self.get("album", album_id)
        return self.found("share", album=album_id)

    @reads(
        ("tell me how many megabytes {album_id} takes", "查一下{album_id}占多少兆"),
        ("It takes {r.megabytes} megabytes.", "占用{r.megabytes}兆。"),
    )
    def measure_album(self, album_id: Album) -> Result:
        """How much space the pictures of an album take. | 统计相册照片占用的空间。"""
        self.get("album", album_id)
        return {"album_id": album_id, "megabytes": sum(p["megabytes"] for _, p in self.rows("picture", album=album_id))}

    @changes(
        ("caption {picture_id} {caption}|write {caption} under {picture_id}", "给{picture_id}写图注{caption}"),
        ("The caption of {picture_id} is {caption}.", "{picture_id}的图注是{caption}。"),
        sets="caption",
    )
    def caption_picture(self, picture_id: Picture, caption: Caption) -> Result:
        """Write a caption under a picture. | 给照片写图注。"""
        self.get("picture", picture_id)["caption"] = caption
        return {"picture_id": picture_id, "caption": caption}

    @changes(
        ("give {picture_id} {stars} stars", "给{picture_id}打{stars}星"),
        ("{picture_id} has {stars} stars.", "{picture_id}有{stars}星。"),
        sets="stars",
    )
    def rate_picture(self, picture_id: Picture, stars: Stars) -> Result:
        """Give a picture one to five stars. | 给照片打一到五星。"""
        self.get("picture", picture_id)["stars"] = stars
        return {"picture_id": picture_id, "stars": stars}

    @changes(
        ("set the keywords of {picture_id} to {keywords}", "把{picture_id}的关键词设为{keywords}"),
        ("The keywords of {picture_id} are {keywords}.", "{picture_id}的关键词是{keywords}。"),
        sets="keywords",
    )
    def set_keywords(self, picture_id: Picture, keywords: Keywords) -> Result:
        """Replace the keywords of a picture. | 替换照片的关键词。"""
        self.get("picture", picture_id)["keywords"] = keywords
        return {"picture_id": picture_id, "keywords": keywords}

    @changes(
        ("move {picture_ids} to {album_id}", "把{picture_ids}移到{album_id}"),
        ("{picture_ids} are in {album_id} now.", "{picture_ids}已移到{album_id}。"),
    )
    def move_pictures(self, picture_ids: Pictures, album_id: Album) -> Result:
        """Move pictures to another open album; a cover cannot be moved. | 把照片移到另一个开放的相册，封面不能移动。"""
        self._open(album_id)
        for id in picture_ids:
            old = self.get("picture", id)["album"]
            self.need(old != album_id, f"{id} is there already.", f"{id}已经在那里。")
            self.need(self.state["album"][old]["cover"] != id, f"{id} is the cover of {old}.", f"{id}是{old}的封面。")
        for id in picture_ids:
            self.state["picture"][id]["album"] = album_id
        return {"album_id": album_id, "picture_ids": picture_ids}

    @changes(
        ("make {picture_id} the cover of its album", "把{picture_id}设为相册封面"),
        ("{picture_id} is the cover.", "{picture_id}已设为封面。"),
    )
    def set_cover(self, picture_id: Picture) -> Result:
        """Make a picture the cover of the album that it is in. | 把照片设为所在相册的封面。"""
        album_id = self.get("picture", picture_id)["album"]
        self._open(album_id)
        self.state["album"][album_id]["cover"] = picture_id
        return {"album_id": album_id, "cover": picture_id}

    @changes(
        (
            "share {album_id} with {viewer} {right} until {last_day}",
            "把{album_id}分享给{viewer}，{right}，到{last_day}为止",
        ),
        ("{album_id} is shared with {viewer} until {last_day}.", "{album_id}已分享给{viewer}，到{last_day}为止。"),
    )
    def share_album(self, album_id: Album, viewer: Viewer, right: Right, last_day: LastDay) -> Result:
        """Share an album with somebody who has no share of it. | 把相册分享给尚未获得分享的人。"""
        self.get("album", album_id)
        self.need(
            not self.rows("share", album=album_id, viewer=viewer),
            "It is shared with that person already.",
            "已经分享给此人。",
        )
        return self.made("share", album=album_id, viewer=viewer, right=right, last_day=last_day)

    @changes(("end {share_id}|take back {share_id}", "收回{share_id}"), ("{share_id} is ended.", "{share_id}已收回。"))
    def end_share(self, share_id: Share) -> Result:
        """End a share. | 收回一个分享。"""
        self.get("share", share_id)
        del self.state["share"][share_id]
        return {"share_id": share_id, "status": "ended"}

    @changes(
        ("prolong {share_id} to {last_day}", "把{share_id}延长到{last_day}"),
        ("The share lasts until {last_day}.", "分享到{last_day}为止。"),
        sets="last_day",
    )
    def prolong_share(self, share_id: Share, last_day: LastDay) -> Result:
        """Give a share another last day. | 修改分享的截止日。"""
        self.get("share", share_id)["last_day"] = last_day
        return {"share_id": share_id, "last_day": last_day}

    @changes(("seal {album_id}", "封存{album_id}"), ("{album_id} is sealed.", "{album_id}已封存。"))
    def seal_album(self, album_id: Album) -> Result:
        """Seal an album against changes. | 封存相册。"""
        album = self.get("album", album_id)
        self.need(album["seal"] == "open", "The album is sealed already.", "该相册已封存。")
        album["seal"] = "sealed"
        return {"album_id": album_id, "seal": "sealed"}

    @changes(("break the seal of {album_id}", "启封{album_id}"), ("{album_id} is open.", "{album_id}已启封。"))
    def break_seal(self, album_id: Album) -> Result:
        """Open a sealed album. | 启封相册。"""
        album = self.get("album", album_id)
        self.need(album["seal"] == "sealed", "The album is not sealed.", "该相册没有封存。")
        album["seal"] = "open"
        return {"album_id": album_id, "seal": "open"}
